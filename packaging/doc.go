// Package packaging holds what slid is installed and shipped with: the systemd unit, the container image and its
// seccomp profile, the sidecar example and the commented configuration. It has no code; its tests check these files
// with the tools that will read them.
package packaging
