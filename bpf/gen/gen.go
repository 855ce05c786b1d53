// Package gen holds the compiled kernel programs and their Go declarations, made from ../*.bpf.c by clang and
// bpf2go. All of it but this file is generated; `make generate` makes it anew.
package gen

//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem owner -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type owner_losses Owner ../owner.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem runqueue -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type probe_cpu -type hist -type runqueue_slot Runqueue ../runqueue.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem lock -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type probe_cpu -type hist -type lock_slot Lock ../lock.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem syscalls -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type probe_cpu -type syscalls_slot -type syscalls_owner Syscalls ../syscalls.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem fsops -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type probe_cpu -type fsops_slot -type fsops_type Fsops ../fsops.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem softirq -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type probe_cpu -type softirq_slot Softirq ../softirq.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem hist_test -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type hist HistTest ../hist_test.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem http -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type hist -type http_key -type http_service -type http_losses -type http_runs -type http_set -type http_step -type http_events -type http_route -type http_endpoint -type http_cell -type http_cell_key HTTP ../http.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem tcp -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type hist -type tcp_slot -type probe_cpu TCP ../tcp.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem accept -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" Accept ../accept.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem dns -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" DNS ../dns.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem drops -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" Drops ../drops.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem pktread -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" Pktread ../pktread.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem blockio -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type hist -type blockio_slot -type blockio_owner Blockio ../blockio.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem blockio_test -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" BlockioTest ../blockio_test.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem reclaim -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type probe_cpu -type hist -type reclaim_slot Reclaim ../reclaim.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem oom -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type probe_cpu -type oom_slot OOM ../oom.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem fsync -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" -type probe_cpu -type hist -type fsync_slot Fsync ../fsync.bpf.c
//go:generate go tool bpf2go -target bpfel -no-global-types -output-stem span_test -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../include" SpanTest ../span_test.bpf.c
