package service

import (
	"crypto/sha1"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
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

// defaultName is the unit's name, or else the command's, in and out of containers: what an operator calls the service.
func defaultName(id identity, port uint16) string {
	switch {
	case id.unit != "" && id.container == "":
		return strings.TrimSuffix(id.unit, ".service")
	case id.command != "":
		return id.command
	case id.container != "":
		return id.container[:12]
	}
	return fmt.Sprintf("port-%d", port)
}

// resourceFor describes the service: service.name, a stable service.instance.id, who runs it, and the host with what
// the user says of it, but not its hardware and operating system.
func (id identity) resourceFor(host *resource.Resource) *resource.Resource {
	attrs := []attribute.KeyValue{
		attribute.String("service.name", id.name),
		attribute.String("service.instance.id", id.instance(host)),
	}
	if id.unit != "" {
		attrs = append(attrs, attribute.String("systemd.unit.name", id.unit))
	}
	if id.container != "" {
		attrs = append(attrs, attribute.String("container.id", id.container))
	}
	for _, kv := range host.Attributes() {
		if !isHostOnly(string(kv.Key)) {
			attrs = append(attrs, kv)
		}
	}
	return resource.NewWithAttributes(host.SchemaURL(), attrs...)
}

func isHostOnly(key string) bool {
	return strings.HasPrefix(key, "os.") || strings.HasPrefix(key, "host.cpu.") || strings.HasPrefix(key, "service.")
}

// instance returns a name-based UUID (RFC 9562, version 5 form): the same for the same service on the same host.
func (id identity) instance(host *resource.Resource) string {
	h := sha1.New()
	hostID, _ := host.Set().Value("host.id")
	fmt.Fprintf(h, "slid/service\x00%s\x00%s\x00%s\x00%s\x00%d",
		hostID.AsString(), id.name, id.unit, id.container, id.netns)
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
