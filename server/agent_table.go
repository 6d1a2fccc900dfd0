package server

import "strings"

// families are the clients that metrics distinguish, by the beginning of their User-Agent in lower case.
var families = []struct{ prefix, name string }{
	{"cosign", "cosign"},
	{"gitsign", "gitsign"},
	{"sigstore-go", "sigstore-go"},
	{"sigstore-js", "sigstore-js"},
	{"sigstore-python", "sigstore-python"},
	{"sigstore-java", "sigstore-java"},
	{"sigstore-rs", "sigstore-rs"},
	{"mayfly", "mayfly"},
	{"fulcio", "fulcio"},
	{"python-requests", "python"},
	{"go-http-client", "go"},
	{"grpc-go", "go"},
	{"grpc-java", "java"},
	{"curl", "curl"},
	{"mozilla", "browser"},
}

// family returns the client that a User-Agent names, from a closed set, because it is a metric label (F10).
func family(agent string) string {
	agent = strings.ToLower(agent)
	for _, f := range families {
		if strings.HasPrefix(agent, f.prefix) {
			return f.name
		}
	}
	return "other"
}
