package cgroup

import (
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
)

const podID = "8f3c2b1a-0d9e-4c7b-a6f5-e4d3c2b1a098"

func TestDescribe(t *testing.T) {
	underscored := strings.ReplaceAll(podID, "-", "_")
	for path, want := range map[string]Group{
		"":                                  {},
		"/":                                 {},
		"/system.slice":                     {},
		"/init.scope":                       {Unit: "init.scope"},
		"/system.slice/nginx.service/work":  {Unit: "nginx.service"},
		`/system.slice/my\x2dapp.service`:   {Unit: "my-app.service"},
		"/system.slice/getty@tty1.service":  {Unit: "getty@tty1.service"},
		"/system.slice/.service":            {},
		"/system.slice/dev-hugepages.mount": {},
		"/user.slice/user-1000.slice/session-4.scope":                         {Unit: "session-4.scope"},
		"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service": {Unit: "web.service"},
		"/user.slice/user-1000.slice/user@1000.service/init.scope":            {Unit: "init.scope"},
		`/machine.slice/machine-qemu\x2d1\x2ddebian.scope/libvirt/emulator`:   {Unit: "machine-qemu-1-debian.scope"},
		"/docker/" + id: {Container: id, Runtime: "docker"},
		"/docker/" + id + "/system.slice/cron.service":                  {Container: id, Runtime: "docker", Unit: "cron.service"},
		"/docker/" + id[1:]:                                             {},
		"/system.slice/docker-" + id + ".scope":                         {Container: id, Runtime: "docker"},
		"/system.slice/nerdctl-" + id + ".scope":                        {Container: id, Runtime: "containerd"},
		"/machine.slice/libpod-" + id + ".scope/container":              {Container: id, Runtime: "podman"},
		"/machine.slice/libpod-conmon-" + id + ".scope":                 {},
		"/libpod_parent/libpod-" + id:                                   {Container: id, Runtime: "podman"},
		"/libpod_parent/" + id:                                          {Container: id, Runtime: "podman"},
		"/kubepods/besteffort/pod" + podID + "/" + id:                   {Container: id, Pod: podID, QoS: "besteffort"},
		"/kubepods/pod" + podID + "/" + id:                              {Container: id, Pod: podID, QoS: "guaranteed"},
		"/kubepods/burstable/pod" + podID:                               {Pod: podID, QoS: "burstable"},
		"/kubepods/burstable/pod0123456789abcdef0123456789abcdef/" + id: {Container: id, Pod: "0123456789abcdef0123456789abcdef", QoS: "burstable"},
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underscored + ".slice/crio-" + id + ".scope/container": {
			Container: id, Runtime: "cri-o", Pod: podID, QoS: "burstable",
		},
		"/kubepods.slice/kubepods-pod" + underscored + ".slice/crio-conmon-" + id + ".scope":    {Pod: podID, QoS: "guaranteed"},
		"/kubepods.slice/kubepods-pod" + underscored + ".slice/cri-containerd-" + id + ".scope": {Container: id, Runtime: "containerd", Pod: podID, QoS: "guaranteed"},
		"/system.slice/containerd.service/kubepods-burstable-pod" + underscored + ".slice:cri-containerd:" + id: {
			Container: id, Runtime: "containerd", Pod: podID, QoS: "burstable",
		},
		"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + underscored + ".slice/" + id: {
			Container: id, Pod: podID, QoS: "besteffort",
		},
		"/system.slice/my-pod" + underscored + ".slice": {},
		"/podman/podcast": {},
	} {
		if got := Describe(path); got != want {
			t.Errorf("Describe(%q)\n got %+v\nwant %+v", path, got, want)
		}
	}
}

// TestDescribeAgreesWithParse: where both know a container, it is the same.
func TestDescribeAgreesWithParse(t *testing.T) {
	for _, path := range []string{
		"/docker/" + id, "/kubepods/besteffort/pod" + podID + "/" + id, "/machine.slice/libpod-" + id + ".scope/container",
		"/system.slice/nginx.service", `/system.slice/my\x2dapp.service`,
	} {
		o, g := Parse(path), Describe(path)
		if o.Container != g.Container || o.Unit != g.Unit {
			t.Errorf("%s: %+v and %+v", path, o, g)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add("/kubepods.slice/kubepods-pod1.slice/crio-" + id + ".scope")
	f.Add("/user.slice/user@1000.service/app.slice/web.service")
	f.Fuzz(func(t *testing.T, path string) {
		g := Describe(path)
		if g.Container != "" && len(g.Container) != 64 || g.Pod != "" && g.QoS == "" || g.Runtime != "" && g.Container == "" {
			t.Errorf("%+v", g)
		}
		last := path[strings.LastIndexByte(path, '/')+1:]
		if Names(last) && g.Unit == "" && g.Container == "" {
			t.Errorf("%q names an owner that is not described", last)
		}
	})
}

func TestParseMounts(t *testing.T) {
	const info = `22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 24 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
37 30 0:33 / /sys/fs/cgroup/cpu,cpuacct rw shared:17 - cgroup cgroup rw,cpu,cpuacct
38 30 0:34 / /my\040mounts/memory rw - cgroup cgroup rw,memory
39 30 0:34 / /var/lib/docker/memory rw - cgroup cgroup rw,memory
40 30 0:36 / /sys/fs/cgroup/freezer rw shared:20 - cgroup cgroup rw,freezer
garbage
41 30 0:36 / - x
`
	got := ParseMounts(info, "/host")
	if len(got) != 3 || !got[0].V2 || got[0].Dir != "/host/sys/fs/cgroup/unified" || !got[1].Has("cpu") || !got[1].Has("cpuacct") ||
		got[2].Dir != "/host/my mounts/memory" || got[2].Has("cpu") || !got[2].Has("memory") {
		t.Errorf("%+v", got)
	}
	if list := ParseMounts("", "/"); list != nil {
		t.Errorf("%+v", list)
	}
}

func TestServiceResource(t *testing.T) {
	host := resource.NewSchemaless(attribute.String("host.id", "h1"), attribute.String("os.type", "linux"), attribute.String("service.name", "host"))
	of := func(s Service, key attribute.Key) string {
		v, _ := s.Resource(host).Set().Value(key)
		return v.AsString()
	}
	s := Service{Name: "api", Container: id, Runtime: "cri-o", Pod: podID, QoS: "burstable"}
	for key, want := range map[attribute.Key]string{
		"service.name": "api", "container.id": id, "container.runtime.name": "cri-o", "k8s.pod.uid": podID,
		"k8s.pod.qos_class": "burstable", "cgroup.path": "", "systemd.unit.name": "", "host.id": "h1", "os.type": "",
	} {
		if got := of(s, key); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	twin := s
	twin.Path = "/a"
	if of(s, "service.instance.id") == of(twin, "service.instance.id") {
		t.Error("the path does not tell two apart")
	}
}

func TestDefaultName(t *testing.T) {
	for _, test := range []struct{ unit, container, command, want string }{
		{"nginx.service", "", "nginx", "nginx"},
		{"session-4.scope", "", "", "session-4.scope"},
		{"", id, "node", "node"},
		{"", id, "", id[:12]},
		{"cron.service", id, "cron", "cron"},
		{"", "", "", ""},
		{"", "ab", "", "ab"},
	} {
		if got := DefaultName(test.unit, test.container, test.command); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}
