package service

import (
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/cgroup"
)

// An Override gives the services that match a name of the user's choice. Fields of the match left empty match all.
type Override struct {
	Name      string
	Port      uint16
	Unit      string // e.g. nginx.service
	Container string // id or the beginning of it
	Command   string // as in /proc/PID/comm
}

func (o Override) matches(id identity, port uint16) bool {
	return (o.Port == 0 || o.Port == port) &&
		(o.Unit == "" || o.Unit == id.unit) &&
		(o.Container == "" || strings.HasPrefix(id.container, o.Container)) &&
		(o.Command == "" || o.Command == id.command)
}

// An identity says which service a kernel slot belongs to. Slots of equal identity and port are one endpoint: a
// service that is restarted gets a new cgroup, and stays the same.
type identity struct {
	name      string
	unit      string // systemd unit, e.g. nginx.service; "" if none
	container string // full id; "" if none
	runtime   string // of the container, as its path tells
	pod, qos  string // uid and class of the Kubernetes pod, likewise
	command   string // of the process that listens; "" if it could not be seen
	netns     uint32 // 0 for slid's own: it tells apart what names leave equal
}

// identify names the service behind a slot. path is its cgroup's, p the process that listens, if they are known; services in the
// network namespace ownNetns need no mark of it.
func identify(path string, p process, ownNetns uint32, key bpf.HTTPKey, overrides []Override) identity {
	owner := cgroup.Parse(path)
	if owner == (cgroup.Owner{}) {
		owner = cgroup.ParseProc(p.cgroup)
	}
	id := identity{unit: owner.Unit, container: owner.Container, command: p.command}
	if id.container != "" {
		group := cgroup.Describe(path)
		id.runtime, id.pod, id.qos = group.Runtime, group.Pod, group.QoS
	}
	if key.Netns != ownNetns && id.container == "" {
		id.netns = key.Netns
	}
	id.name = defaultName(id, key.Port)
	for _, o := range overrides {
		if o.matches(id, key.Port) {
			id.name = o.Name
			break
		}
	}
	return id
}

// defaultName is what an operator calls the service, or else its port.
func defaultName(id identity, port uint16) string {
	if name := cgroup.DefaultName(id.unit, id.container, id.command); name != "" {
		return name
	}
	return fmt.Sprintf("port-%d", port)
}

// resourceFor describes the service and the host it runs on.
func (id identity) resourceFor(host *resource.Resource) *resource.Resource {
	return cgroup.Service{
		Name: id.name, Unit: id.unit, Container: id.container, Runtime: id.runtime, Pod: id.pod, QoS: id.qos, Netns: id.netns,
	}.Resource(host)
}
