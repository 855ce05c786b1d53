// Package arch has no code, only tests of the whole tree: which package may import which, that each has a
// documentation, that no function is long, what is linked into the binary, and the licence of the kernel objects.
// They read the source and the generated objects, so they need neither privileges nor a network.
package arch
