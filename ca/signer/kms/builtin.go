package kms

// BuiltIn returns the names of the services that this build includes, and the build tags of those that it leaves out.
func BuiltIn() (names, without []string) {
	for _, p := range providers() {
		if p.open == nil {
			without = append(without, p.tag)
		} else {
			names = append(names, p.name)
		}
	}
	return names, without
}
