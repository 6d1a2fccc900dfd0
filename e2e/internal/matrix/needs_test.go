package matrix

import (
	"slices"
	"testing"
)

// Everything that a client needs has a package, so that a new machine is told all of it at once.
func TestNeeds(t *testing.T) {
	t.Parallel()
	names := append(NeedsOf(Table()), Operations()...)
	for _, name := range names {
		if !slices.ContainsFunc(needs, func(n Need) bool { return n.Name == name && n.Debian != "" }) {
			t.Errorf("no package has %s", name)
		}
	}
	all := missing(names, func(Need) bool { return false })
	if len(all) != len(needs) {
		t.Errorf("an empty machine lacks %s", Names(all))
	}
	if got := missing(names,
		func(n Need) bool { return n.Name != "etcd" && n.Name != "mvn" }); Names(got) != "etcd, mvn" {
		t.Errorf("missing: %s", Names(got))
	}
	if got := Packages(missing(names,
		func(n Need) bool { return n.Debian != "default-jdk-headless" })); !slices.Equal(got,
		[]string{"default-jdk-headless"}) {
		t.Errorf("packages: %v", got)
	}
}
