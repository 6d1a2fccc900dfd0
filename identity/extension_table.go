package identity

import (
	"encoding/asn1"
	"iter"
)

// Extension is the last arc of an extension OID under 1.3.6.1.4.1.57264.1, the arc that Sigstore verifiers read.
type Extension uint8

// The extensions have the names of Fulcio's OID directory. Arc 7 is not an extension: it is the type of the otherName
// of the type username.
const (
	IssuerV1                   Extension = 1
	GitHubWorkflowTrigger      Extension = 2
	GitHubWorkflowSHA          Extension = 3
	GitHubWorkflowName         Extension = 4
	GitHubWorkflowRepository   Extension = 5
	GitHubWorkflowRef          Extension = 6
	Issuer                     Extension = 8
	BuildSignerURI             Extension = 9
	BuildSignerDigest          Extension = 10
	RunnerEnvironment          Extension = 11
	SourceRepositoryURI        Extension = 12
	SourceRepositoryDigest     Extension = 13
	SourceRepositoryRef        Extension = 14
	SourceRepositoryIdentifier Extension = 15
	SourceRepositoryOwnerURI   Extension = 16
	SourceRepositoryOwnerID    Extension = 17
	BuildConfigURI             Extension = 18
	BuildConfigDigest          Extension = 19
	BuildTrigger               Extension = 20
	RunInvocationURI           Extension = 21
	SourceRepositoryVisibility Extension = 22
	DeploymentEnvironment      Extension = 23
	Subject                    Extension = 24
	arcs                                 = 25
	otherNameArc                         = 7
	// arcs 1 to 6 have the bare UTF-8 text, the later ones a DER UTF8String
	rawUpTo   = 6
	prefixDER = "\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01" // tag, length and 1.3.6.1.4.1.57264.1
)

// names has the kebab-case name of each arc, for the issuer file and the command line, and its key in the JSON form of
// the issuer file.
var names = [arcs]struct{ kebab, camel string }{
	IssuerV1:                   {"issuer-v1", ""},
	GitHubWorkflowTrigger:      {"github-workflow-trigger", "GithubWorkflowTrigger"},
	GitHubWorkflowSHA:          {"github-workflow-sha", "GithubWorkflowSHA"},
	GitHubWorkflowName:         {"github-workflow-name", "GithubWorkflowName"},
	GitHubWorkflowRepository:   {"github-workflow-repository", "GithubWorkflowRepository"},
	GitHubWorkflowRef:          {"github-workflow-ref", "GithubWorkflowRef"},
	Issuer:                     {"issuer", "Issuer"},
	BuildSignerURI:             {"build-signer-uri", "BuildSignerURI"},
	BuildSignerDigest:          {"build-signer-digest", "BuildSignerDigest"},
	RunnerEnvironment:          {"runner-environment", "RunnerEnvironment"},
	SourceRepositoryURI:        {"source-repository-uri", "SourceRepositoryURI"},
	SourceRepositoryDigest:     {"source-repository-digest", "SourceRepositoryDigest"},
	SourceRepositoryRef:        {"source-repository-ref", "SourceRepositoryRef"},
	SourceRepositoryIdentifier: {"source-repository-identifier", "SourceRepositoryIdentifier"},
	SourceRepositoryOwnerURI:   {"source-repository-owner-uri", "SourceRepositoryOwnerURI"},
	SourceRepositoryOwnerID:    {"source-repository-owner-identifier", "SourceRepositoryOwnerIdentifier"},
	BuildConfigURI:             {"build-config-uri", "BuildConfigURI"},
	BuildConfigDigest:          {"build-config-digest", "BuildConfigDigest"},
	BuildTrigger:               {"build-trigger", "BuildTrigger"},
	RunInvocationURI:           {"run-invocation-uri", "RunInvocationURI"},
	SourceRepositoryVisibility: {"source-repository-visibility-at-signing", "SourceRepositoryVisibilityAtSigning"},
	DeploymentEnvironment:      {"deployment-environment", "DeploymentEnvironment"},
	Subject:                    {"subject", "Subject"},
}

// Known yields all extensions in the order of a certificate.
func Known() iter.Seq[Extension] {
	return func(yield func(Extension) bool) {
		for x := Extension(1); x < arcs; x++ {
			if x != otherNameArc && !yield(x) {
				return
			}
		}
	}
}

// ByName returns the extension with a kebab-case name ("build-signer-uri") or its JSON key ("BuildSignerURI").
func ByName(name string) (Extension, bool) {
	for x := range Known() {
		if n := names[x]; name == n.kebab || (n.camel != "" && name == n.camel) {
			return x, true
		}
	}
	return 0, false
}

// String returns the kebab-case name.
func (x Extension) String() string {
	if x >= arcs {
		return ""
	}
	return names[x].kebab
}

// JSONKey returns the key in the JSON form of the issuer file; empty if there is none.
func (x Extension) JSONKey() string {
	if x >= arcs {
		return ""
	}
	return names[x].camel
}

// OID returns 1.3.6.1.4.1.57264.1.x.
func (x Extension) OID() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, int(x)}
}

// Is reports whether oid is the OID of x.
func (x Extension) Is(oid asn1.ObjectIdentifier) bool {
	return len(oid) == len(arc)+1 && arc.Equal(oid[:len(arc)]) && oid[len(arc)] == int(x)
}

// Raw reports whether the extension's value is bare UTF-8 and not a DER UTF8String.
func (x Extension) Raw() bool { return x <= rawUpTo }
