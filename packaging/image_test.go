package packaging

import (
	"archive/tar"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/internal/testneed"
)

// imageManifest and imageConfig are what the tests read of an image (OCI image specification 1.0).
type imageManifest struct {
	Config blob   `json:"config"`
	Layers []blob `json:"layers"`
}

type blob struct {
	Digest string `json:"digest"`
}

type imageConfig struct {
	Config struct {
		User       string
		Entrypoint []string
		Cmd        []string
		Labels     map[string]string
	} `json:"config"`
}

// buildImage builds the image into storage of its own and returns its OCI layout.
func buildImage(t *testing.T, slid string) string {
	t.Helper()
	storage := t.TempDir()
	buildah := []string{
		testneed.Tool(t, "buildah"), "--storage-driver", "vfs", "--root", storage + "/root", "--runroot", storage + "/run",
	}
	cmd := exec.Command("container/build.sh", "slid:test")
	cmd.Env = append(os.Environ(), "BUILDAH="+strings.Join(buildah, " "), "SLID="+slid, "VERSION=1.2.3", "REVISION=abc")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	layout := filepath.Join(storage, "layout")
	run(t, buildah[0], append(buildah[1:], "push", "--quiet", "slid:test", "oci:"+layout+":test")...)
	return layout
}

// readJSON reads a JSON file of the layout.
func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	if err := json.Unmarshal(read(t, path), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// path returns where a layout keeps a blob.
func (b blob) path(layout string) string {
	return filepath.Join(layout, "blobs", strings.Replace(b.Digest, ":", "/", 1))
}

func TestImage(t *testing.T) {
	testneed.Root(t, "to build images without a user namespace")
	testneed.Tool(t, "buildah")
	testneed.File(t, "/etc/ssl/certs/ca-certificates.crt", "certificates: apt-get install ca-certificates")
	slid := buildSlid(t)
	checkStatic(t, slid)
	layout := buildImage(t, slid)

	var index struct{ Manifests []blob }
	readJSON(t, filepath.Join(layout, "index.json"), &index)
	var manifest imageManifest
	readJSON(t, index.Manifests[0].path(layout), &manifest)
	var config imageConfig
	readJSON(t, manifest.Config.path(layout), &config)
	checkImageConfig(t, config)

	var files []string
	for _, layer := range manifest.Layers {
		files = append(files, entries(t, layer.path(layout))...)
	}
	want := []string{
		"755 0:0 etc/", "755 0:0 etc/ssl/", "755 0:0 etc/ssl/certs/", "644 0:0 etc/ssl/certs/ca-certificates.crt", "755 0:0 slid",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// checkStatic checks that a program needs no loader: the image has none.
func checkStatic(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary is not static")
		}
	}
}

func checkImageConfig(t *testing.T, got imageConfig) {
	t.Helper()
	var want imageConfig
	want.Config.User = "65532:65532"
	want.Config.Entrypoint = []string{"/slid"}
	want.Config.Cmd = []string{"run"}
	want.Config.Labels = map[string]string{
		"org.opencontainers.image.title":       "slid",
		"org.opencontainers.image.description": "The SLI daemon: measures a host, its kernel and its services, exports OTLP",
		"org.opencontainers.image.url":         "https://github.com/slid-agent/slid",
		"org.opencontainers.image.source":      "https://github.com/slid-agent/slid",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     "1.2.3",
		"org.opencontainers.image.revision":    "abc",
	}
	delete(got.Config.Labels, "io.buildah.version") // buildah puts itself there
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

// entries lists a layer: mode, owner and name of each file.
func entries(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for archive := tar.NewReader(unzipped); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%o %d:%d %s", h.Mode&0o7777, h.Uid, h.Gid, h.Name))
	}
}
