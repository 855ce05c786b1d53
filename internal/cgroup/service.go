package cgroup

import (
	"crypto/sha1"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
)

// A Service is who something is measured of. Collectors that measure the same service describe it by the same
// resource, so that its requests and its CPU time meet in the backend.
type Service struct {
	Name      string
	Unit      string // systemd unit, e.g. nginx.service; "" if none
	Container string // full id; "" if none
	Runtime   string // of the container
	Pod       string // uid of the Kubernetes pod
	QoS       string // class of the pod

	Netns uint32 // 0 for the host's own network namespace: it tells apart what names leave equal
	Path  string // of the control group, where the rest leaves two equal; "" otherwise
}

// DefaultName is the unit's name, or else the command's, in and out of containers: what an operator calls the
// service. It is empty if nothing is known.
func DefaultName(unit, container, command string) string {
	switch {
	case unit != "" && container == "":
		return strings.TrimSuffix(unit, ".service")
	case command != "":
		return command
	}
	return container[:min(12, len(container))]
}

// Resource describes the service: service.name, a stable service.instance.id, who runs it, and the host with what
// the user says of it, but not its hardware and operating system.
func (s Service) Resource(host *resource.Resource) *resource.Resource {
	attrs := []attribute.KeyValue{
		attribute.String("service.name", s.Name),
		attribute.String("service.instance.id", s.instance(host)),
	}
	for _, a := range [...]struct{ key, value string }{
		{"systemd.unit.name", s.Unit},
		{"container.id", s.Container},
		{"container.runtime.name", s.Runtime},
		{"k8s.pod.uid", s.Pod},
		{"k8s.pod.qos_class", s.QoS},
		{"cgroup.path", s.Path},
	} {
		if a.value != "" {
			attrs = append(attrs, attribute.String(a.key, strings.ToValidUTF8(a.value, "?")))
		}
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
func (s Service) instance(host *resource.Resource) string {
	h := sha1.New()
	hostID, _ := host.Set().Value("host.id")
	fmt.Fprintf(h, "slid/service\x00%s\x00%s\x00%s\x00%s\x00%d",
		hostID.AsString(), s.Name, s.Unit, s.Container, s.Netns)
	if s.Path != "" {
		fmt.Fprintf(h, "\x00%s", s.Path)
	}
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
