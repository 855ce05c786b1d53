package procfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openers() map[string]func(string) (*File, error) {
	return map[string]func(string) (*File, error){"single": OpenSingle, "many": Open}
}

// TestReadFollowsTheFile reads files of sizes around the buffer's, and again after they changed.
func TestReadFollowsTheFile(t *testing.T) {
	for name, open := range openers() {
		for _, size := range []int{0, 1, minSize - 1, minSize, minSize + 1, 3*minSize + 7, MaxSize - 1} {
			want := strings.Repeat("x", size)
			path := write(t, want)
			f, err := open(path)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				got, err := f.Read()
				if err != nil || string(got) != want {
					t.Fatalf("%s, %d bytes: read %d, %v", name, size, len(got), err)
				}
				want = "short"
				if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestReadAgreesWithOS reads kernel files whose content holds still, one of them longer than a page.
func TestReadAgreesWithOS(t *testing.T) {
	for _, path := range []string{"/proc/version", "/proc/filesystems", "/proc/kallsyms", "/proc/self/limits"} {
		want, err := os.ReadFile(path)
		if err != nil || len(want) >= MaxSize {
			t.Logf("skipping %s: %d bytes, %v", path, len(want), err)
			continue
		}
		for name, open := range openers() {
			f, err := open(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Read()
			// A file of many records is not for OpenSingle once it is longer than a page.
			if name == "single" && len(want) > minSize {
				got, want = got[:min(len(got), minSize/2)], want[:min(len(got), minSize/2)]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s %s: read %d bytes, want %d; %v", name, path, len(got), len(want), err)
			}
			_ = f.Close()
		}
	}
}

func TestEndlessFile(t *testing.T) {
	// A hole, not /dev/zero: a signal may cut a read of that short, and Go sends itself signals.
	path := filepath.Join(t.TempDir(), "endless")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, MaxSize+1)); err != nil {
		t.Fatal(err)
	}
	for name, open := range openers() {
		f, err := open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Read()
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want ErrTooLarge with the path", name, err)
		}
		if len(f.buf) != minSize {
			t.Errorf("%s: keeps %d bytes after an endless file", name, len(f.buf))
		}
		_ = f.Close()
	}
}

func TestPipeDoesNotHang(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAll(path); !errors.Is(err, unix.ESPIPE) {
		t.Errorf("%v, want ESPIPE", err)
	}
}

func TestOpenErrorsNameTheFile(t *testing.T) {
	_, err := Open("/proc/no/such")
	var pathErr *fs.PathError
	if !errors.As(err, &pathErr) || pathErr.Path != "/proc/no/such" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestVanishedIsOpenedAgain ends the process behind a kept-open file, as a device is pulled, and lets the path
// point to another.
func TestVanishedIsOpenedAgain(t *testing.T) {
	attr := &os.ProcAttr{Files: []*os.File{nil, nil, nil}}
	child, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, attr)
	if err != nil {
		t.Skip("cannot start /bin/sleep: ", err)
	}
	link := filepath.Join(t.TempDir(), "process")
	if err := os.Symlink("/proc/"+strconv.Itoa(child.Pid), link); err != nil {
		t.Fatal(err)
	}
	f, err := OpenSingle(link + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(); err != nil {
		t.Fatal(err)
	}
	_ = child.Kill()
	_, _ = child.Wait()
	for range 2 {
		if _, err := f.Read(); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("after the end of the process: %v, want ErrNotExist", err)
		}
	}
	if err := errors.Join(os.Remove(link), os.Symlink("/proc/self", link)); err != nil {
		t.Fatal(err)
	}
	if b, err := f.Read(); err != nil || len(b) == 0 {
		t.Errorf("after its return: %q, %v", b, err)
	}
	_ = f.Close()
}

func TestReadingAllocatesNothing(t *testing.T) {
	single, err := OpenSingle("/proc/stat")
	if err != nil {
		t.Skip(err)
	}
	many, err := Open("/proc/diskstats")
	if err != nil {
		t.Skip(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := errors.Join(read(single), read(many)); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per read, want 0", n)
	}
	_ = errors.Join(single.Close(), many.Close())
}

func read(f *File) error {
	_, err := f.Read()
	return err
}

func TestUint(t *testing.T) {
	for in, want := range map[string]error{
		"0": nil, "18446744073709551615": nil, "00000000000000000000000000001": nil,
		"18446744073709551616": ErrRange, "99999999999999999999": ErrRange, "184467440737095516150": ErrRange,
		"": ErrSyntax, "-1": ErrSyntax, "1x": ErrSyntax, " 1": ErrSyntax, "\x00": ErrSyntax,
	} {
		got, err := Uint([]byte(in))
		if !errors.Is(err, want) {
			t.Errorf("Uint(%q) = %v, %v; want %v", in, got, err, want)
		}
		if std, _ := strconv.ParseUint(in, 10, 64); err == nil && got != std {
			t.Errorf("Uint(%q) = %v, want %v", in, got, std)
		}
	}
}

func FuzzUints(f *testing.F) {
	f.Add("cpu  1 2\t3", 4)
	f.Add("1 18446744073709551616", 2)
	f.Add("  7 \x00", 1)
	f.Fuzz(func(t *testing.T, in string, size int) {
		dst := make([]uint64, uint(size)%32)
		n, rest, err := Uints([]byte(in), dst)
		fields := strings.FieldsFunc(in, func(r rune) bool { return r == ' ' || r == '\t' })
		for i := range n {
			if want, err := strconv.ParseUint(fields[i], 10, 64); err != nil || dst[i] != want {
				t.Fatalf("%q: field %d = %d, want %d, %v", in, i, dst[i], want, err)
			}
		}
		if err != nil {
			if _, err := strconv.ParseUint(fields[n], 10, 64); err == nil {
				t.Fatalf("%q: field %d refused", in, n)
			}
		} else if n < len(dst) && len(fields) != n {
			t.Fatalf("%q: read %d of %d fields", in, n, len(fields))
		}
		if !strings.HasSuffix(in, string(rest)) {
			t.Fatalf("%q: rest %q", in, rest)
		}
	})
}

func FuzzField(f *testing.F) {
	f.Add(" a  b\tc ")
	f.Fuzz(func(t *testing.T, in string) {
		rest := []byte(in)
		for _, want := range strings.FieldsFunc(in, func(r rune) bool { return r == ' ' || r == '\t' }) {
			var got []byte
			if got, rest = Field(rest); string(got) != want {
				t.Fatalf("%q: field %q, want %q", in, got, want)
			}
		}
		if last, _ := Field(rest); len(last) != 0 {
			t.Fatalf("%q: one more field %q", in, last)
		}
	})
}

func FuzzLine(f *testing.F) {
	f.Add("one\n\ntwo\ncut")
	f.Fuzz(func(t *testing.T, in string) {
		want := strings.Split(in, "\n")
		rest := []byte(in)
		for _, w := range want[:len(want)-1] {
			var line []byte
			var ok bool
			if line, rest, ok = Line(rest); !ok || string(line) != w {
				t.Fatalf("%q: line %q, %v; want %q", in, line, ok, w)
			}
		}
		if _, rest, ok := Line(rest); ok || string(rest) != want[len(want)-1] {
			t.Fatalf("%q: a line after the last; rest %q", in, rest)
		}
	})
}

func FuzzDecimal(f *testing.F) {
	f.Add("0.31")
	f.Add("12")
	f.Add("1.")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Decimal([]byte(in))
		if err != nil {
			return
		}
		want, err := strconv.ParseFloat(in, 64)
		if err != nil || math.Abs(got-want) > 1e-12*want {
			t.Fatalf("Decimal(%q) = %v, want %v, %v", in, got, want, err)
		}
	})
}

func BenchmarkUints(b *testing.B) {
	line := []byte("  4148 13421 5334 289701 386 0 74 12 0 0")
	var dst [10]uint64
	b.ReportAllocs()
	for b.Loop() {
		if n, _, err := Uints(line, dst[:]); n != 10 || err != nil {
			b.Fatal(n, err)
		}
	}
}
