// Package matrix is the table of clients and walk-throughs that "make e2e-all" runs, and of their saved results.
package matrix

// Client is one real client, or one walk-through with several.
type Client struct {
	Name    string   // of the test, after TestAll/
	Title   string   // in the documentation
	Version string   // part of the key of a saved result
	Needs   []string // names of [Need]
}

// Table returns all, in the order in which they run: the cheap ones first.
func Table() []Client {
	return []Client{
		{Name: "cosign", Title: "cosign", Version: "3.1.3"},
		{Name: "sigstore-go", Title: "sigstore-go (its conformance program)", Version: "1.3.0"},
		{Name: "sigstore-js", Title: "sigstore-js", Version: jsVersion, Needs: []string{"node", "npm"}},
		{
			Name: "npm", Title: "npm provenance (libnpmpublish)", Version: npmVersion,
			Needs: []string{"node", "npm"},
		},
		{Name: "sigstore-python", Title: "sigstore-python", Version: pythonVersion, Needs: python()},
		{Name: "pep740", Title: "PEP 740 (pypi-attestations)", Version: attestationsVersion, Needs: python()},
		{Name: "model-signing", Title: "model-signing", Version: modelVersion, Needs: python()},
		{
			Name: "sigstore-java", Title: "sigstore-java", Version: javaVersion,
			Needs: []string{"java", "keytool", "mvn"},
		},
		{Name: "sigstore-rs", Title: "sigstore-rs", Version: rustVersion, Needs: []string{"cargo"}},
		{Name: "gitsign", Title: "gitsign", Version: "0.14.0", Needs: []string{"git"}},
		{
			Name: "conformance", Title: "sigstore-conformance (signing and verifying)", Version: "CLI protocol of 2026",
			Needs: append(python(), "node", "npm"),
		},
		{Name: "ruby", Title: "sigstore-ruby", Version: "requests only"},
		{Name: "kubernetes-release", Title: "walk-through: a Kubernetes release", Version: "cosign 3.1.3"},
		{Name: "admission", Title: "walk-through: admission of an image", Version: "cosign 3.1.3"},
		{Name: "slsa", Title: "walk-through: SLSA provenance", Version: "cosign 3.1.3"},
		{
			Name: "kubernetes-account", Title: "walk-through: a Kubernetes service account",
			Version: "kube-apiserver 1.35.4", Needs: []string{"etcd"},
		},
		{Name: "spiffe", Title: "walk-through: a SPIFFE workload", Version: "SPIRE 1.13.3"},
	}
}

// The versions of the clients that are installed by their language's package manager.
const (
	jsVersion           = "5.0.1"
	npmVersion          = "12.0.1"
	pythonVersion       = "4.5.1"
	attestationsVersion = "0.0.30"
	modelVersion        = "1.1.1"
	javaVersion         = "2.0.0"
	rustVersion         = "0.15.0"
)

func python() []string { return []string{"python3", "python3 -m venv"} }

// RecordEnv names the environment variable with the file to which a test appends a line for each feature that it
// exercised.
const RecordEnv = "MAYFLY_E2E_RECORD"
