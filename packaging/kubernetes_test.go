package packaging

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/config"
)

// The parts of the sidecar example that must agree with slid and with each other.
type (
	configMap struct {
		Data map[string]string
	}
	pod struct {
		Spec struct {
			ShareProcessNamespace bool `yaml:"shareProcessNamespace"`
			Containers            []container
			Volumes               []struct {
				Name     string
				HostPath struct{ Path string } `yaml:"hostPath"`
			}
		}
	}
	container struct {
		Name            string
		Args            []string
		SecurityContext struct {
			RunAsUser                int   `yaml:"runAsUser"`
			AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities             struct{ Drop, Add []string }
		} `yaml:"securityContext"`
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
			ReadOnly  bool   `yaml:"readOnly"`
		} `yaml:"volumeMounts"`
	}
)

// sidecarExample reads the two documents of the example.
func sidecarExample(t *testing.T) (m configMap, p pod) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(read(t, "sidecar/sidecar.yaml")))
	for _, document := range []any{&m, &p} {
		if err := decoder.Decode(document); err != nil {
			t.Fatal(err)
		}
	}
	return m, p
}

func TestSidecarExamplePermissions(t *testing.T) {
	_, p := sidecarExample(t)
	slid := p.Spec.Containers[1]
	security := slid.SecurityContext
	want := make([]string, len(capabilities))
	for i, c := range capabilities {
		want[i] = strings.TrimPrefix(c, "CAP_")
	}
	if diff := cmp.Diff(want, security.Capabilities.Add); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ALL"}, security.Capabilities.Drop); diff != "" {
		t.Errorf("dropped capabilities (-want +got):\n%s", diff)
	}
	// The capabilities of another user than root would end at exec; a missing false would allow more at exec.
	if security.RunAsUser != 0 || security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation {
		t.Errorf("user %d, privilege escalation %v", security.RunAsUser, security.AllowPrivilegeEscalation)
	}
	if !security.ReadOnlyRootFilesystem || !p.Spec.ShareProcessNamespace {
		t.Error("the root file system must be read-only and the process namespace shared")
	}
}

func TestSidecarExampleConfiguration(t *testing.T) {
	m, p := sidecarExample(t)
	c, err := config.Parse("sidecar.yaml", []byte(m.Data["slid.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	slid := p.Spec.Containers[1]
	if diff := cmp.Diff([]string{"run", "--config", "/etc/slid/slid.yaml"}, slid.Args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
	sources := map[string]string{}
	for _, v := range p.Spec.Volumes {
		sources[v.Name] = v.HostPath.Path
	}
	mounts := map[string]string{}
	for _, v := range slid.VolumeMounts {
		mounts[v.MountPath] = sources[v.Name]
		if !v.ReadOnly {
			t.Errorf("%s is writable", v.MountPath)
		}
	}
	want := map[string]string{"/etc/slid": "", c.Host.Root + "/sys/fs/cgroup": "/sys/fs/cgroup"}
	if diff := cmp.Diff(want, mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}
