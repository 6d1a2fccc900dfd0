package matrix

import (
	"slices"
	"testing"
)

// Everything that a client needs has a package, so that a new machine is told all of it at once.
func TestNeeds(t *testing.T) {
	t.Parallel()
	for _, c := range Table() {
		for _, name := range c.Needs {
			if !slices.ContainsFunc(needs, func(n Need) bool { return n.Name == name && n.Debian != "" }) {
				t.Errorf("%s needs %s, and no package has it", c.Name, name)
			}
		}
	}
	all := missing(Table(), func(Need) bool { return false })
	if len(all) != len(needs) {
		t.Errorf("an empty machine lacks %s", Names(all))
	}
	if got := missing(Table(),
		func(n Need) bool { return n.Name != "etcd" && n.Name != "redis-server" }); Names(got) != "etcd, redis-server" {
		t.Errorf("missing: %s", Names(got))
	}
	if got := Packages(missing(Table(),
		func(n Need) bool { return n.Debian != "default-jdk-headless" })); !slices.Equal(got,
		[]string{"default-jdk-headless"}) {
		t.Errorf("packages: %v", got)
	}
}
