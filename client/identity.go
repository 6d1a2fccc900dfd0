package client

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// claims are the claims of a token. They are not verified here: the server does that.
type claims map[string]json.RawMessage

func readClaims(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("the identity token is not a JWT of three parts")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errors.New("the identity token's payload is not base64url")
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, errors.New("the identity token's payload is not JSON")
	}
	return c, nil
}

// text returns the value of a claim that is a string, or "" if the claim is missing or has another type. Several names
// select a member of nested objects.
func (c claims) text(names ...string) string {
	for len(names) > 1 {
		var inner claims
		if json.Unmarshal(c[names[0]], &inner) != nil {
			return ""
		}
		c, names = inner, names[1:]
	}
	var s string
	if json.Unmarshal(c[names[0]], &s) != nil {
		return ""
	}
	return s
}

// workflowNames lists, by provider, how CAs build the URI of a certificate from a token's claims: an address, which is
// a setting of the CA, followed by a text in which each {} is replaced by a claim. Tokens of different providers do not
// have the same set of claims.
var workflowNames = []struct {
	end    string
	depth  int // the largest number of path segments in the address
	claims [][]string
}{
	{"/{}", 0, [][]string{{"job_workflow_ref"}}},                        // GitHub
	{"https://{}", 0, [][]string{{"ci_config_ref_uri"}}},                // GitLab
	{"/{}/{}", 0, [][]string{{"organization_slug"}, {"pipeline_slug"}}}, // Buildkite
	{"/{}/{}", 0, [][]string{{"workspaceUuid"}, {"repositoryUuid"}}},    // Bitbucket
	// Azure Pipelines
	{"/{}/_build?definitionId={}", 1, [][]string{{"prj_id"}, {"def_id"}}},
	{"/{}/{}:{}/{}", 0, [][]string{{"account_name"}, {"pipeline_name"}, {"account_id"}, {"pipeline_id"}}}, // Codefresh
	{
		"/projects/{}/pipeline-definitions/{}", 2,
		[][]string{{"oidc.circleci.com/project-id"}, {"oidc.circleci.com/pipeline-definition-id"}},
	},
	{"/{}/{}/pipelines/pipeline/{}", 0, [][]string{{"workspace_domain"}, {"project_name"}, {"pipeline_id"}}}, // Buddy
	{"/app/{}/workspaces/{}", 0, [][]string{{"terraform_organization_name"}, {"terraform_workspace_name"}}},
	{"/namespaces/{}/serviceaccounts/{}", 0, [][]string{
		{"kubernetes.io", "namespace"},
		{"kubernetes.io", "serviceaccount", "name"},
	}},
}

// workflow reports whether a CA builds name from the claims. known is false if the claims match no provider in the
// table.
func (c claims) workflow(name string) (known, same bool) {
	decoded, err := url.PathUnescape(name)
	if err != nil {
		decoded = name
	}
	for _, n := range workflowNames {
		parts := strings.Split(n.end, "{}")
		end := parts[0]
		for i, claim := range n.claims {
			value := c.text(claim...)
			if value == "" {
				end = ""
				break
			}
			end += value + parts[i+1]
		}
		if end == "" {
			continue
		}
		known = true
		for _, form := range []string{name, decoded} {
			if base, ok := strings.CutSuffix(form, end); ok && isAddress(base, n.depth) {
				return true, true
			}
		}
	}
	return known, false
}

// isAddress reports whether base is empty or the address of a provider with at most depth segments in its path.
func isAddress(base string, depth int) bool {
	if base == "" {
		return true
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	return len(strings.FieldsFunc(u.Path, func(r rune) bool { return r == '/' })) <= depth
}

// ErrOtherIdentity is wrapped by errors about a certificate whose identity differs from that of the token.
var ErrOtherIdentity = errors.New("the certificate is for another identity")

// names checks that a certificate has the identity of the request's token, or the expected identity.
//
// The issuer MUST be that of the token, or the upstream issuer that the token names (federated_claims of Dex). The
// subject, if the certificate has it, MUST be that of the token. An e-mail address MUST equal the claim email. A user
// name MUST start with the subject. A URI MUST equal the subject, or end in the claims from which its provider's names
// are built. Any other URI is accepted only if the certificate also has the token's subject.
func (r Request) names(id identity.Identity) error {
	c, err := readClaims(r.Token)
	if err != nil {
		if r.Identity == "" || r.Issuer == "" {
			return fmt.Errorf("compare the certificate with the token: %w", err)
		}
		c = nil
	}
	if err := r.issuerMatches(id, c); err != nil {
		return err
	}
	if r.Identity != "" {
		if id.SAN.Value != r.Identity {
			return other("it names %s, but %s was expected", id.SAN.Value, r.Identity)
		}
		return nil
	}
	subject := c.text("sub")
	if id.Subject != "" && id.Subject != subject {
		return other("it has the subject %s, but the token has %s; the token was replaced in transit",
			id.Subject, subject)
	}
	if !r.derived(id, c) {
		return other("it names %s, which does not follow from the token that was sent (issuer %s, subject %s); "+
			"the token was replaced in transit, or the CA builds names in another way", id.SAN.Value,
			c.text("iss"), subject)
	}
	return nil
}

func (r Request) issuerMatches(id identity.Identity, c claims) error {
	own, federated := c.text("iss"), c.text("federated_claims", "connector_id")
	switch {
	case id.Issuer == "":
		return other("it names no issuer")
	case r.Issuer == "" && (id.Issuer == own || id.Issuer == federated):
		return nil
	case r.Issuer != "" && (id.Issuer == r.Issuer || own == r.Issuer && id.Issuer == federated):
		return nil
	case r.Issuer != "":
		return other("it names the issuer %s, but %s was expected", id.Issuer, r.Issuer)
	}
	return other("it names the issuer %s, but the token has %s; the token was replaced in transit, or the CA names "+
		"issuers in another way", id.Issuer, own)
}

// other returns an [ErrOtherIdentity] with quoted values of the certificate and the token.
func other(format string, values ...string) error {
	quoted := make([]any, len(values))
	for i, v := range values {
		quoted[i] = `"` + printable.Escape(v) + `"`
	}
	return fmt.Errorf("%w: "+format, append([]any{ErrOtherIdentity}, quoted...)...)
}

// derived reports whether the name in the certificate follows from the claims.
func (r Request) derived(id identity.Identity, c claims) bool {
	subject, email := c.text("sub"), c.text("email")
	name := id.SAN.Value
	switch id.SAN.Kind {
	case identity.Email:
		return email != "" && name == email || email == "" && name == subject
	case identity.OtherName:
		domain, ok := strings.CutPrefix(name, subject+"!")
		return ok && subject != "" && domain != "" && !strings.Contains(domain, "!")
	case identity.URI:
		if name == subject {
			return true
		}
		known, same := c.workflow(name)
		return same || !known && id.Subject != ""
	}
	return false
}
