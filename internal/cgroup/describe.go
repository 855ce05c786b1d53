package cgroup

import "strings"

// A Group is what the path of a control group tells of it. Fields that it does not tell are empty.
type Group struct {
	Unit      string // innermost systemd service or scope, e.g. nginx.service or session-4.scope
	Container string // full id of the innermost container
	Runtime   string // docker, containerd, cri-o or podman, as in container.runtime.name
	Pod       string // uid of the Kubernetes pod, with dashes
	QoS       string // the pod's class: guaranteed, burstable or besteffort
}

// Describe reads a cgroup path. It goes further than Parse: it knows scopes, runtimes and pods.
func Describe(path string) Group {
	var g Group
	runtime := "" // as the parents of a bare id tell
	for part := range strings.SplitSeq(path, "/") {
		if uid := podUID(part); uid != "" {
			g.Pod = uid
			g.QoS = qosOf(path, part)
		}
		switch id := containerID(part); {
		case id != "":
			g.Unit, g.Container = "", id // a unit around a container is its manager, not what runs inside
			g.Runtime = runtimeOf(part)
			if g.Runtime == "" {
				g.Runtime = runtime
			}
		case NamesUnit(part):
			g.Unit = unescape(part)
		case part == "docker":
			runtime = "docker"
		case part == "libpod_parent":
			runtime = "podman"
		}
	}
	return g
}

// Names says whether an element of a path names a unit or a container: what is below it belongs to it, unless it
// names another.
func Names(part string) bool { return NamesUnit(part) || containerID(part) != "" }

// NamesUnit says whether an element of a path is a systemd service or scope. The monitors that Podman and CRI-O run
// beside each container do not count: their names are as many as there are containers, and they do nothing.
func NamesUnit(part string) bool {
	if strings.HasSuffix(part, ".service") {
		return len(part) > len(".service")
	}
	return strings.HasSuffix(part, ".scope") && len(part) > len(".scope") &&
		!strings.Contains(part, "conmon-") && containerID(part) == ""
}

// runtimeOf returns the container runtime that an element with a container's id is from.
func runtimeOf(part string) string {
	switch {
	case strings.HasPrefix(part, "docker-"):
		return "docker"
	case strings.HasPrefix(part, "cri-containerd-"), strings.HasPrefix(part, "nerdctl-"), strings.Contains(part, ":cri-containerd:"):
		return "containerd"
	case strings.HasPrefix(part, "crio-"), strings.Contains(part, ":crio:"):
		return "cri-o"
	case strings.HasPrefix(part, "libpod-"):
		return "podman"
	}
	return ""
}

// podUID returns the uid of the pod that an element names: pod<uid> (cgroupfs driver),
// kubepods[-<class>]-pod<uid>.slice with underscores for dashes (systemd driver), or the same before a colon.
// A static pod's uid is 32 hexadecimal digits without dashes.
func podUID(part string) string {
	part, _, _ = strings.Cut(part, ":")
	if slice, ok := strings.CutSuffix(part, ".slice"); ok {
		i := strings.LastIndex(slice, "-pod")
		if i < 0 || !strings.HasPrefix(slice, "kubepods") && !strings.Contains(slice, "-kubepods") {
			return ""
		}
		part = strings.ReplaceAll(slice[i+1:], "_", "-")
	}
	uid, ok := strings.CutPrefix(part, "pod")
	const dashed, bare = 36, 32
	if !ok || len(uid) != dashed && len(uid) != bare || strings.Trim(uid, "0123456789abcdef-") != "" {
		return ""
	}
	return uid
}

// qosOf returns the class of the pod whose element in the path is given. The kubelet puts those of the guaranteed
// class right below kubepods.
func qosOf(path, pod string) string {
	before, _, _ := strings.Cut(path, pod)
	for _, class := range [...]string{"burstable", "besteffort"} {
		if strings.Contains(before, class) || strings.Contains(pod, "-"+class+"-") {
			return class
		}
	}
	return "guaranteed"
}
