package setup

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Issuer is an identity provider whose tokens are accepted.
type Issuer struct {
	// URL is the issuer of the tokens. "": the public instance of the provider of Profile.
	URL string
	// ClientID is the audience of the tokens. "": sigstore.
	ClientID string
	// Profile is the name of a profile for the tokens of a CI system ("mayfly config profiles"). "": the tokens are of
	// people, who are named by their e-mail addresses.
	Profile string
	// Web is the web address of a provider that its operator runs, such as https://git.example.com, for profiles with
	// the parameter url. "": derived from URL.
	Web string
	// Owner is whose tokens get certificates: an organization of GitHub, a group of GitLab, a domain of e-mail
	// addresses. "": all tokens of the issuer.
	Owner string
}

// The profiles for which [Issuer.Owner] has a meaning. Profiles of other names need a policy of their own.
const (
	GitHub = "github-workflow"
	GitLab = "gitlab-pipeline"
)

// The issuers of tokens of the public instances.
const (
	GitHubURL = "https://token.actions.githubusercontent.com"
	GitLabURL = "https://gitlab.com"
)

// ownerName matches names of organizations, paths of groups, and domains.
var ownerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)

// Check finds what is wrong with the issuer. Its errors are [fault.Setting] values.
func (i Issuer) Check() error {
	i = i.withDefaults()
	u, err := url.Parse(i.URL)
	switch {
	case i.Profile != "" && !known(i.Profile):
		return fault.BadSetting(fmt.Sprintf("the profile %q is unknown", i.Profile),
			"write a name of \"mayfly config profiles\"", "profile")
	case i.URL == "":
		return fault.BadSetting("is missing", "write the issuer of its tokens: the profile has no public one", "issuer")
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return fault.BadSetting(fmt.Sprintf("%q is not the URL of an identity provider", i.URL),
			"write the issuer of its tokens, for example https://accounts.example.com", "issuer")
	case u.Scheme == "http" && !hostname.IsLoopback(u.Hostname()):
		return fault.BadSetting("the keys of "+i.URL+" would be fetched over a network without encryption",
			"write https", "issuer")
	case i.Owner != "" && !ownerName.MatchString(i.Owner):
		return fault.BadSetting(fmt.Sprintf("%q is not the name of an organization, a group or a domain", i.Owner),
			"write letters, digits, dots, hyphens and slashes", "owner")
	case i.Owner != "" && i.Profile != "" && i.Profile != GitHub && i.Profile != GitLab:
		return fault.BadSetting("the profile "+i.Profile+" has no rule for an owner",
			"remove the owner, and write a policy into "+IssuersFile, "owner")
	}
	return nil
}

// withDefaults returns the issuer with the values that it leaves out.
func (i Issuer) withDefaults() Issuer {
	i.ClientID = cmp.Or(i.ClientID, "sigstore")
	for _, p := range oidc.Profiles() {
		if i.URL == "" && p.Name == i.Profile && len(p.Issuers) > 0 && !strings.ContainsAny(p.Issuers[0], "*") {
			i.URL = p.Issuers[0]
		}
	}
	return i
}

func known(profile string) bool {
	return slices.ContainsFunc(oidc.Profiles(), func(p oidc.ProfileInfo) bool { return p.Name == profile })
}

// Rule returns the name and the CEL expression of the rule that allows the tokens of the owner; "" if all are allowed.
func (i Issuer) Rule() (name, expression string) {
	owner := strconv.Quote(i.Owner)
	switch {
	case i.Owner == "":
		return "", ""
	case i.Profile == GitHub:
		return "our-organization", "claims.repository_owner == " + owner
	case i.Profile == GitLab:
		return "our-group", fmt.Sprintf("claims.namespace_path == %s || claims.namespace_path.startsWith(%s)", owner,
			strconv.Quote(i.Owner+"/"))
	}
	return "our-domain", fmt.Sprintf("claims.email.endsWith(%s)", strconv.Quote("@"+i.Owner))
}

// parameter returns the web address for the parameter url of a profile; "" if its default is right.
func (i Issuer) parameter() string {
	switch {
	case i.Web != "":
		return strings.TrimSuffix(i.Web, "/")
	case i.Profile == GitLab && i.URL != GitLabURL:
		return strings.TrimSuffix(i.URL, "/")
	}
	return ""
}
