package service

import (
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/bpf"
)

var (
	container = strings.Repeat("3f2a", 16)
	testHost  = resource.NewSchemaless(attribute.String("host.id", "h1"), attribute.String("host.name", "web-17"),
		attribute.String("os.type", "linux"), attribute.String("deployment.environment.name", "prod"),
		attribute.String("service.name", "host"))
)

func TestIdentify(t *testing.T) {
	const own = 7
	key := bpf.HTTPKey{Netns: own, Port: 8080}
	other := bpf.HTTPKey{Netns: 8, Port: 8080}
	overrides := []Override{
		{Name: "checkout", Unit: "pay.service", Port: 8080},
		{Name: "front", Container: "3f2a3f2a"},
		{Name: "cache", Command: "redis-server"},
	}
	for name, test := range map[string]struct {
		path string
		p    process
		key  bpf.HTTPKey
		want identity
	}{
		"unit":              {"/system.slice/nginx.service", process{command: "nginx"}, key, identity{name: "nginx", unit: "nginx.service", command: "nginx"}},
		"unit by process":   {"/", process{command: "nginx", cgroup: "1:name=systemd:/system.slice/web.service\n"}, key, identity{name: "web", unit: "web.service", command: "nginx"}},
		"command":           {"/", process{command: "nginx", cgroup: "0::/\n"}, key, identity{name: "nginx", command: "nginx"}},
		"nothing known":     {"", process{}, key, identity{name: "port-8080"}},
		"container":         {"/docker/" + strings.Repeat("ab", 32), process{command: "node"}, other, identity{name: "node", container: strings.Repeat("ab", 32), runtime: "docker", command: "node"}},
		"container, hidden": {"/docker/" + strings.Repeat("ab", 32), process{}, key, identity{name: "abababababab", container: strings.Repeat("ab", 32), runtime: "docker"}},
		"other namespace":   {"/", process{command: "nginx"}, other, identity{name: "nginx", command: "nginx", netns: 8}},
		"override by unit":  {"/system.slice/pay.service", process{}, key, identity{name: "checkout", unit: "pay.service"}},
		"override misses":   {"/system.slice/pay.service", process{}, bpf.HTTPKey{Netns: own, Port: 9}, identity{name: "pay", unit: "pay.service"}},
		"override by id":    {"/docker/" + container, process{command: "x"}, key, identity{name: "front", container: container, runtime: "docker", command: "x"}},
		"override by comm":  {"/", process{command: "redis-server"}, key, identity{name: "cache", command: "redis-server"}},
	} {
		if got := identify(test.path, test.p, own, test.key, overrides); got != test.want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, test.want)
		}
	}
}

func TestResourceFor(t *testing.T) {
	id := identity{name: "nginx", unit: "nginx.service", container: container, command: "nginx"}
	set := id.resourceFor(testHost).Set()
	for key, want := range map[attribute.Key]string{
		"service.name": "nginx", "systemd.unit.name": "nginx.service", "container.id": container,
		"host.id": "h1", "host.name": "web-17", "os.type": "", "deployment.environment.name": "prod",
	} {
		if got, _ := set.Value(key); got.AsString() != want {
			t.Errorf("%s = %q, want %q", key, got.AsString(), want)
		}
	}
	instance := func(id identity) string {
		v, _ := id.resourceFor(testHost).Set().Value("service.instance.id")
		return v.AsString()
	}
	if a, b := instance(id), instance(id); a != b || len(a) != 36 || a[14] != '5' {
		t.Errorf("service.instance.id %q, then %q; want one UUID of version 5", a, b)
	}
	seen := map[string]identity{}
	for _, other := range []identity{id, {name: "nginx"}, {name: "nginx", netns: 3}, {name: "web", unit: "nginx.service"}} {
		if twin, dup := seen[instance(other)]; dup {
			t.Errorf("%+v and %+v have the same instance id", other, twin)
		}
		seen[instance(other)] = other
	}
}
