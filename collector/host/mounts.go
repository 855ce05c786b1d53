package host

import (
	"bytes"
	"cmp"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/procfs"
)

// mountLine is a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)). Its texts are part of the line and escaped as
// the kernel does it.
type mountLine struct {
	id, parent   uint64
	device       [2]uint64 // major, minor
	root         []byte    // which directory of the filesystem is mounted
	point        []byte    // where, as seen by the process
	fsType       []byte
	source       []byte
	options      []byte // of this mount
	superOptions []byte // of the filesystem
}

// errNoMount says that a line is not one of mountinfo.
var errNoMount = errors.New("not the description of a mount")

// parseMount reads a line like "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue".
func parseMount(line []byte) (m mountLine, err error) {
	head, tail, ok := bytes.Cut(line, []byte(" - "))
	if !ok {
		return m, errNoMount
	}
	// What follows the separator is cut at single blanks: a source can be empty.
	m.fsType, tail, _ = bytes.Cut(tail, []byte{' '})
	m.source, m.superOptions, ok = bytes.Cut(tail, []byte{' '})
	if !ok || len(m.fsType) == 0 {
		return m, errNoMount
	}
	var ids [2]uint64
	n, rest, err := procfs.Uints(head, ids[:])
	if err == nil && n < len(ids) {
		err = errNoMount
	}
	m.id, m.parent = ids[0], ids[1]
	device, rest := procfs.Field(rest)
	m.root, rest = procfs.Field(rest)
	m.point, rest = procfs.Field(rest)
	m.options, _ = procfs.Field(rest)
	major, minor, ok := bytes.Cut(device, []byte{':'})
	if !ok || len(m.point) == 0 || m.point[0] != '/' || len(m.options) == 0 {
		err = cmp.Or(err, errNoMount)
	}
	var bad [2]error
	m.device[0], bad[0] = procfs.Uint(major)
	m.device[1], bad[1] = procfs.Uint(minor)
	return m, cmp.Or(err, bad[0], bad[1])
}

// readOnly says whether nothing can be written through the mount: it is mounted so, the filesystem is, or the
// filesystem has stopped writing after an error. ext4 tells the last only by a word among its options.
func (m *mountLine) readOnly() bool {
	return hasOption(m.options, "ro") || hasOption(m.superOptions, "ro") ||
		hasOption(m.superOptions, "emergency_ro") || hasOption(m.superOptions, "shutdown")
}

// hasOption says whether a list like "rw,noatime" has an option.
func hasOption(options []byte, name string) bool {
	for len(options) > 0 {
		var option []byte
		option, options, _ = bytes.Cut(options, []byte{','})
		if string(option) == name {
			return true
		}
	}
	return false
}

// unescapeMount undoes what the kernel does to blanks, newlines and backslashes: \040 is a blank.
func unescapeMount(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) && isOctal(b[i+1], '3') && isOctal(b[i+2], '7') && isOctal(b[i+3], '7') {
			out = append(out, (b[i+1]-'0')<<6|(b[i+2]-'0')<<3|(b[i+3]-'0'))
			i += 3
			continue
		}
		out = append(out, b[i])
	}
	return string(out)
}

func isOctal(c, last byte) bool { return '0' <= c && c <= last }

// A mountTable is the list of mounts of a process, read again when it changed.
type mountTable struct {
	file  *procfs.File
	watch [1]unix.PollFd // a descriptor of the same file that tells of changes; -1 if it cannot
	read  time.Time      // when the file was read last
	seen  []byte         // what it had then
	stale bool           // it could not be read since
	lines []mountLine    // of the last parsing; they lie in the buffer of file
}

// mountsAge is how old the list may become: an emergency remount changes the options without telling.
const mountsAge = time.Minute

// openMounts opens a file like /proc/1/mountinfo.
func openMounts(path string) (*mountTable, error) {
	file, err := procfs.Open(path)
	if err != nil {
		return nil, err
	}
	t := &mountTable{file: file}
	t.watch[0] = unix.PollFd{Fd: int32(openWatch(path)), Events: unix.POLLPRI}
	return t, nil
}

// openWatch opens the file once more, only to be polled: procfs tells each descriptor by itself of changes since it
// was opened or polled last. It returns -1 if path is no file of procfs; such a file is read each time.
func openWatch(path string) int {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return -1
	}
	return fd
}

// close gives the files back.
func (t *mountTable) close() error {
	if fd := int(t.watch[0].Fd); fd >= 0 {
		unix.Close(fd)
		t.watch[0].Fd = -1
	}
	return t.file.Close()
}

// due says whether the list should be read: the kernel tells of a change, or the list is old.
func (t *mountTable) due(now time.Time) bool {
	if t.watch[0].Fd < 0 {
		return true
	}
	t.watch[0].Revents = 0
	n, err := unix.Poll(t.watch[:], 0)
	changed := err != nil || n > 0 && t.watch[0].Revents&(unix.POLLPRI|unix.POLLERR) != 0
	age := now.Sub(t.read)
	return changed || t.stale || age >= mountsAge || age < 0
}

// refresh reads the list if it is due, and says whether it changed. A bad line is left out and is the error, beside
// which the other lines are valid until the next call; known is false if there are none.
func (t *mountTable) refresh(now time.Time) (changed, known bool, err error) {
	if !t.due(now) {
		return false, true, nil
	}
	b, err := t.file.Read()
	if err != nil {
		t.stale = true
		return false, false, err
	}
	t.read = now
	if !t.stale && bytes.Equal(b, t.seen) {
		return false, true, nil
	}
	t.seen = append(t.seen[:0], b...)
	err = t.parse(b)
	t.stale = err != nil
	return true, len(t.lines) > 0, err
}

// parse reads the whole file.
func (t *mountTable) parse(b []byte) error {
	t.lines = t.lines[:0]
	var bad tableError
	for n := 0; len(b) > 0; n++ {
		line, rest, ok := procfs.Line(b)
		if !ok {
			bad.note(n, procfs.ErrTruncated)
			break
		}
		b = rest
		m, err := parseMount(line)
		if err != nil {
			bad.note(n, err)
			continue
		}
		t.lines = append(t.lines, m)
	}
	if len(t.lines) == 0 {
		bad.note(0, procfs.ErrTruncated) // every process has a root
	}
	return bad.asError(t.file)
}

// filesystems returns one mount for each filesystem that wanted lets pass, in the order of mount points. Of several
// mounts of a filesystem (bind mounts, subvolumes, the mounts of a volume for each container) that is the best by
// betterMount, for all of them have the same space. Mounts that others hide are left out: their path leads
// elsewhere.
func (t *mountTable) filesystems(wanted func(*mountLine) bool) []*mountLine {
	hidden := hiddenMounts(t.lines)
	best := map[[2]uint64]*mountLine{}
	for i := range t.lines {
		m := &t.lines[i]
		if hidden(m) || !wanted(m) {
			continue
		}
		if b := best[m.device]; b == nil || betterMount(m, b) {
			best[m.device] = m
		}
	}
	list := make([]*mountLine, 0, len(best))
	for _, m := range best {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *mountLine) int { return bytes.Compare(a.point, b.point) })
	return list
}

// betterMount says whether a stands for its filesystem rather than b: what is mounted at / is best, then whole
// filesystems rather than directories of them, then the shortest path, then the first by name.
func betterMount(a, b *mountLine) bool {
	rank := func(m *mountLine) int {
		switch {
		case string(m.point) == "/":
			return 0
		case string(m.root) == "/":
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(len(a.point), len(b.point)),
		bytes.Compare(a.point, b.point)) < 0
}

// placeOfMount is where a mount is attached: a path below the root of its parent.
type placeOfMount struct {
	parent uint64
	point  string
}

// hiddenMounts returns a function that says whether a mount cannot be reached by its path: another one is mounted
// over it, or over a directory above it.
func hiddenMounts(lines []mountLine) func(*mountLine) bool {
	byPlace := make(map[placeOfMount]uint64, len(lines))
	byID := make(map[uint64]*mountLine, len(lines))
	for i := range lines {
		m := &lines[i]
		byPlace[placeOfMount{m.parent, string(m.point)}] = m.id
		byID[m.id] = m
	}
	reached := make(map[uint64]bool, len(lines)) // whether the place of a mount can be reached
	var reach func(*mountLine) bool
	reach = func(m *mountLine) bool {
		r, ok := reached[m.id]
		if ok {
			return r
		}
		reached[m.id] = true // ends a circle, which only a damaged file has
		r = !hiddenByNeighbor(m, byPlace)
		if p := byID[m.parent]; r && p != nil {
			r = reach(p)
		}
		reached[m.id] = r
		return r
	}
	return func(m *mountLine) bool {
		over, covered := byPlace[placeOfMount{m.id, string(m.point)}]
		return covered && over != m.id || !reach(m)
	}
}

// hiddenByNeighbor says whether something of the same parent is mounted over a directory above m.
func hiddenByNeighbor(m *mountLine, byPlace map[placeOfMount]uint64) bool {
	for path := m.point; len(path) > 1; {
		path = path[:bytes.LastIndexByte(path, '/')]
		above := path
		if len(above) == 0 {
			above = []byte{'/'}
		}
		id, ok := byPlace[placeOfMount{m.parent, string(above)}]
		if ok && id != m.parent && id != m.id {
			return true
		}
		if len(path) == 0 {
			break
		}
	}
	return false
}

// fsTypes tells filesystems that store something from those that only show something.
type fsTypes struct {
	path  string          // /proc/filesystems
	nodev map[string]bool // those of the running kernel: whether they need no device
}

// storesWithoutDevice says whether a type stores something though the kernel gives it no block device: networks,
// servers in user space and storage of other kinds. Stacked ones (overlay, ecryptfs) have the space of what is below
// them.
func storesWithoutDevice(fsType string) bool {
	switch fsType {
	case "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "coda", "afs", "ceph", "9p", "virtiofs", "lustre", "gpfs",
		"beegfs", "orangefs", "pvfs2", "glusterfs", "fuse", "zfs", "ubifs", "jffs2", "vboxsf", "vmhgfs", "prl_fs",
		"panfs", "acfs":
		return true
	}
	return false
}

// isImage says whether a type can only be read: it is always full, and nothing can be done about that.
func isImage(fsType string) bool {
	switch fsType {
	case "squashfs", "erofs", "iso9660", "cramfs", "romfs":
		return true
	}
	return false
}

// load reads /proc/filesystems: lines like "nodev\tproc" and "\text4". Without it devices tell.
func (f *fsTypes) load() {
	b, err := procfs.ReadAll(f.path)
	if err != nil {
		return
	}
	f.nodev = make(map[string]bool)
	for line := range bytes.Lines(b) {
		flag, name, ok := bytes.Cut(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\t'})
		if ok && len(name) > 0 {
			f.nodev[string(name)] = string(flag) == "nodev"
		}
	}
}

// hasDevice says whether the filesystem lies on a block device.
func (f *fsTypes) hasDevice(fsType string, device [2]uint64) bool {
	nodev, ok := f.nodev[fsType]
	if !ok {
		return device[0] != 0 // devices without a driver have the number 0
	}
	return !nodev
}

// wanted says whether a mount is of a filesystem that stores something. overlay is one only as the root of a
// container, of which nothing else is seen.
func (f *fsTypes) wanted(m *mountLine) bool {
	base := baseType(m.fsType)
	switch {
	case base == "overlay":
		return string(m.point) == "/"
	case isImage(base):
		return false
	}
	return storesWithoutDevice(base) || f.hasDevice(base, m.device)
}

// remote says whether somebody else must answer for the filesystem: a server in the network or in user space.
func (f *fsTypes) remote(m *mountLine) bool {
	switch base := baseType(m.fsType); base {
	case "zfs", "ubifs", "jffs2", "overlay":
		return false
	case "fuseblk":
		return true
	default:
		return !f.hasDevice(base, m.device)
	}
}

// sharesNumber says whether a directory of the filesystem has the number that mountinfo shows: a subvolume has one
// of its own.
func (m *mountLine) sharesNumber() bool {
	switch string(m.fsType) {
	case "btrfs", "bcachefs", "overlay":
		return false
	}
	return true
}

// baseType returns fuse of fuse.sshfs.
func baseType(fsType []byte) string {
	base, _, _ := strings.Cut(string(fsType), ".")
	return base
}

// hostPath returns where a path of the host is seen below root.
func hostPath(root, path string) string {
	if root == "" || root == "/" {
		return path
	}
	return filepath.Join(root, path)
}
