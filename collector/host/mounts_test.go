package host

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMountLine(t *testing.T) {
	for line, want := range map[string]string{
		"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue": "36 35 98:0 /mnt1 /mnt2 ext3 /dev/root rw",
		"36 35 98:0 / / ro - ext3 /dev/root rw":                                          "36 35 98:0 / / ext3 /dev/root ro",
		"36 35 98:0 / / rw a:1 b:2 - ext4 /dev/root rw,emergency_ro":                     "36 35 98:0 / / ext4 /dev/root ro",
		"36 35 98:0 / / rw - ext4 /dev/root rw,errors=remount-ro":                        "36 35 98:0 / / ext4 /dev/root rw",
		"36 35 0:9 / /x\\040y rw - tmpfs  rw":                                            "36 35 0:9 / /x y tmpfs  rw",
		"36 35 0:9 / /x rw - fuse.a-b host:/a\\011b rw":                                  "36 35 0:9 / /x fuse.a-b host:/a\tb rw",
	} {
		m, err := parseMount([]byte(line))
		mode := "rw"
		if m.readOnly() {
			mode = "ro"
		}
		got := fmt.Sprintf("%d %d %d:%d %s %s %s %s %s", m.id, m.parent, m.device[0], m.device[1],
			unescapeMount(m.root), unescapeMount(m.point), m.fsType, unescapeMount(m.source), mode)
		if err != nil || got != want {
			t.Errorf("%s\n got %s, %v\nwant %s", line, got, err, want)
		}
	}
	for _, line := range []string{
		"", "36", "36 35 98:0 / / rw", "36 35 98:0 / / rw - ext4", "36 35 98:0 / / rw - ext4 /dev/root", "36 35 98 / / rw - a b c",
		"x 35 98:0 / / rw - a b c", "36 35 98:x / / rw - a b c", "36 35 98:0 / here rw - a b c", "36 35 - a b c",
		"36 35 98:18446744073709551616 / / rw - a b c", "36 35 98:0 / / - a b c",
	} {
		if m, err := parseMount([]byte(line)); err == nil {
			t.Errorf("%q: %+v, want an error", line, m)
		}
	}
}

func TestUnescapeMount(t *testing.T) {
	for in, want := range map[string]string{
		`/a\040b`: "/a b", `\134`: `\`, `\13`: `\13`, `\`: `\`, `\999`: `\999`, `a\012`: "a\n", `\400`: `\400`, `\377`: "\xff",
	} {
		if got := unescapeMount([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// chosen returns the filesystems of a recorded tree as "device mount point", with ! before those of a server.
func chosen(t *testing.T, tree string) []string {
	t.Helper()
	var table mountTable
	table.file = mustOpen(t, "testdata/"+tree+"/proc/1/mountinfo")
	b, err := table.file.Read()
	if err == nil {
		err = table.parse(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	types := fsTypes{path: "testdata/" + tree + "/proc/filesystems"}
	types.load()
	var list []string
	for _, m := range table.filesystems(types.wanted) {
		server := ""
		if types.remote(m) {
			server = "!"
		}
		list = append(list, server+unescapeMount(m.source)+" "+unescapeMount(m.point))
	}
	return list
}

// TestFilesystemsOfMounts: what stores something, once each.
func TestFilesystemsOfMounts(t *testing.T) {
	for tree, want := range map[string][]string{
		"filesystem/vm": {"/dev/vda /"},
		"filesystem/server": {
			"/dev/mapper/vg0-root /", "/dev/sda2 /boot", "/dev/sda1 /boot/efi", "/dev/sdf /data", "/dev/sdb /home",
			"!backup@filer: /mnt/back\\slash and\ttab", "/dev/sdh /mnt/broken", "!//filer/share /mnt/cifs",
			"/dev/sdi /mnt/forced", "!filer:/export/a b /mnt/nfs", "!/dev/sdj1 /mnt/windows", "tank /tank",
			"tank/db /tank/db", "/dev/mapper/vg0-docker /var/lib/docker",
			"/dev/sdd /var/lib/kubelet/pods/0a/volumes/kubernetes.io~csi/pvc-1/mount", "!lxcfs /var/lib/lxcfs",
		},
		"filesystem/container": {"overlay /", "/dev/vda1 /etc/hosts"},
	} {
		if diff := cmp.Diff(want, chosen(t, tree)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tree, diff)
		}
	}
}

// TestHiddenMounts: of mounts over each other only what a path leads to counts.
func TestHiddenMounts(t *testing.T) {
	for name, c := range map[string]struct{ table, hidden string }{
		"same place":            {"1 0 /;2 1 /a;3 2 /a", "2"},
		"three at a place":      {"1 0 /;2 1 /a;3 2 /a;4 3 /a", "2 3"},
		"over a directory":      {"1 0 /;2 1 /a/b;3 1 /a", "2"},
		"below what is hidden":  {"1 0 /;2 1 /a/b;3 2 /a/b/c;4 1 /a", "2 3"},
		"below what covers":     {"1 0 /;2 1 /a;3 2 /a;4 3 /a/b", "2"},
		"below what is covered": {"1 0 /;2 1 /a;4 2 /a/b;3 2 /a", "2 4"},
		"alike names":           {"1 0 /;2 1 /a;3 1 /ab;4 1 /abc/d", ""},
		"root of itself":        {"1 1 /;2 1 /a", ""},
		"a circle":              {"1 2 /a;2 1 /a/b", ""},
		"unknown parent":        {"7 3 /;8 7 /x", ""},
	} {
		var lines []mountLine
		for text := range strings.SplitSeq(c.table, ";") {
			var m mountLine
			var point string
			if _, err := fmt.Sscan(text, &m.id, &m.parent, &point); err != nil {
				t.Fatal(err)
			}
			m.point = []byte(point)
			lines = append(lines, m)
		}
		hidden := hiddenMounts(lines)
		var got []string
		for i := range lines {
			if hidden(&lines[i]) {
				got = append(got, fmt.Sprint(lines[i].id))
			}
		}
		if strings.Join(got, " ") != c.hidden {
			t.Errorf("%s: hidden %v, want %s", name, got, c.hidden)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	for _, tree := range []string{"filesystem/vm", "filesystem/server", "filesystem/container"} {
		f.Add(readTree(f, tree, "proc/1/mountinfo"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		table := mountTable{file: mustOpen(t, "/dev/null")}
		err := table.parse(b)
		types := fsTypes{}
		for _, m := range table.filesystems(types.wanted) {
			if len(m.point) == 0 || m.point[0] != '/' || len(m.fsType) == 0 {
				t.Fatalf("%+v", m)
			}
		}
		if n := bytes.Count(b, []byte{'\n'}); err == nil && len(table.lines) != n {
			t.Fatalf("%d lines of %d without an error", len(table.lines), n)
		}
	})
}
