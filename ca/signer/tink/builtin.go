package tink

// BuiltIn reports whether this build includes Tink.
func BuiltIn() bool { return parse != nil }
