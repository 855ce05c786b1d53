package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const id = "3f2a9c0d5e6b7a8f90123456789abcdef0123456789abcdef0123456789abcde"

func TestParse(t *testing.T) {
	for path, want := range map[string]Owner{
		"":                                 {},
		"/":                                {},
		"/system.slice/nginx.service":      {Unit: "nginx.service"},
		"/system.slice/nginx.service/work": {Unit: "nginx.service"},
		`/system.slice/my\x2dapp.service`:  {Unit: "my-app.service"},
		`/system.slice/bad\x.service`:      {Unit: `bad\x.service`},
		"/user.slice/user-1000.slice/session-4.scope":                                                      {},
		"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service":                              {Unit: "web.service"},
		"/system.slice/docker-" + id + ".scope":                                                            {Container: id},
		"/docker/" + id:                                                                                    {Container: id},
		"/machine.slice/libpod-" + id + ".scope/container":                                                 {Container: id},
		"/machine.slice/libpod-conmon-" + id + ".scope":                                                    {},
		"/kubepods.slice/kubepods-burstable.slice/kubepods-pod1a_2b.slice/cri-containerd-" + id + ".scope": {Container: id},
		"/kubepods/besteffort/pod1a-2b/" + id:                                                              {Container: id},
		"/kubepods.slice/kubepods-pod1.slice/crio-" + id + ".scope":                                        {Container: id},
		"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:" + id:                        {Container: id},
		"/system.slice/docker-" + id[1:] + ".scope":                                                        {},
	} {
		if got := Parse(path); got != want {
			t.Errorf("Parse(%q) = %+v, want %+v", path, got, want)
		}
	}
}

func TestParseProc(t *testing.T) {
	for data, want := range map[string]Owner{
		"0::/system.slice/nginx.service\n":                                    {Unit: "nginx.service"},
		"12:cpu,cpuacct:/\n1:name=systemd:/system.slice/cron.service\n0::/\n": {Unit: "cron.service"},
		"4:memory:/docker/" + id + "\n0::/\n":                                 {Container: id},
		"0::/\n":                                                              {},
		"garbage":                                                             {},
		"":                                                                    {},
		strings.Repeat("x:", 100000) + "\n0::/system.slice/late.service (deleted)\n":    {},
		"0::/system.slice/a:b.service\n":                                                {Unit: "a:b.service"},
		"1:name=systemd:/\n0::/kubepods/besteffort/pod1/" + id + "/system.service\nx\n": {Unit: "system.service", Container: id},
	} {
		if got := ParseProc(data); got != want {
			t.Errorf("ParseProc(%.60q) = %+v, want %+v", data, got, want)
		}
	}
}

func FuzzParseProc(f *testing.F) {
	f.Add("0::/system.slice/nginx.service\n")
	f.Add("12:cpu,cpuacct:/docker/" + id + "\n0::/\n")
	f.Fuzz(func(t *testing.T, data string) {
		if o := ParseProc(data); o.Container != "" && len(o.Container) != 64 {
			t.Errorf("container id %q", o.Container)
		}
	})
}

// TestTree uses any directories: a cgroup's id is its inode number, as on every file system.
func TestTree(t *testing.T) {
	mount := t.TempDir()
	dir := filepath.Join(mount, "system.slice/nginx.service")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tree := NewTree(mount)
	nginx := inode(dir)
	if p, ok := tree.Path(nginx); !ok || p != "/system.slice/nginx.service" {
		t.Errorf("nginx: %q, %v", p, ok)
	}
	if p, ok := tree.Path(inode(mount)); !ok || p != "/" {
		t.Errorf("root: %q, %v", p, ok)
	}
	late := filepath.Join(mount, "late.service")
	if err := os.Mkdir(late, 0o755); err != nil {
		t.Fatal(err)
	}
	if p, ok := tree.Path(inode(late)); !ok || p != "/late.service" {
		t.Errorf("a group made after the first walk: %q, %v", p, ok)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if p, ok := tree.Path(nginx); ok {
		t.Errorf("a removed group still has the path %q", p)
	}
}

func TestMountOfThisMachine(t *testing.T) {
	mount, err := Mount("/")
	if err != nil {
		t.Skip(err)
	}
	if p, ok := NewTree(mount).Path(inode(mount)); !ok || p != "/" {
		t.Errorf("root of %s: %q, %v", mount, p, ok)
	}
}

func TestMountMissing(t *testing.T) {
	if m, err := Mount(t.TempDir()); err == nil {
		t.Errorf("found %s in an empty directory", m)
	}
}
