package claims

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// The four types here are older than profiles. Their claims are typed, and Fulcio joins their URIs as paths.

// texts are claims read in one go: the first that is missing or no text is the error.
type texts struct {
	claims  token.Claims
	lenient bool
	base    string // the address that URIs begin with
	home    bool   // the issuer is the provider's own, or base was set for it
	err     error
}

func (t *texts) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// need returns a claim that must be there.
func (t *texts) need(name string) string {
	s, err := t.claims.Text(name)
	if err == nil {
		err = checkText(name, s)
	}
	t.fail(err)
	return s
}

// may returns a claim that may be absent.
func (t *texts) may(name string) string {
	s, isText := t.claims[name].(string)
	if !isText && t.claims[name] != nil {
		t.fail(badPart(name, "not a text"))
	}
	t.fail(checkText(name, s))
	return s
}

// uri is a URI of literals and claims, in turn; a claim is written as its name behind an @. It begins with base where
// the first part is empty.
func (t *texts) uri(rules uriRules, parts ...string) string {
	all := make([]part, 0, 8)
	for i, p := range parts {
		name, isClaim := strings.CutPrefix(p, "@")
		switch {
		case i == 0 && p == "":
			all = append(all, part{text: t.base})
		case isClaim:
			all = append(all, part{text: t.may(name), claim: name})
		default:
			all = append(all, part{text: p})
		}
	}
	rules.lenient = t.lenient
	if t.err != nil {
		return ""
	}
	uri, err := rules.build(all)
	t.fail(err)
	return uri
}

// path is a URI under base.
func (t *texts) path(parts ...string) string {
	return t.uri(uriRules{joined: true}, slices.Concat([]string{""}, parts)...)
}

// named gives id its URI and extensions; an empty extension stays away.
func named(id identity.Identity, san string, extensions map[identity.Extension]string) identity.Identity {
	id.SAN = identity.SAN{Kind: identity.URI, Value: san}
	for x, v := range extensions {
		id.Extensions.Set(x, v)
	}
	return id
}

// byClaims is a mapper that reads claims one by one: the first that is missing or wrong is the error. parameter is the
// name of the address that URIs begin with, in the profile of the same name as the type.
func byClaims(r entry, parameter string, f func(*texts, identity.Identity) identity.Identity) (mapFunc, error) {
	s := profiles[r.Type]
	base, home := s.Defaults[parameter], s.home(r.issuer)
	if len(r.Parameters) > 0 {
		set, err := s.defaults(r)
		if err != nil {
			return nil, err
		}
		base, home = set[parameter], true
	}
	lenient := r.Lenient()
	return func(c token.Claims) (identity.Identity, error) {
		id, err := bySubject(c)
		if err != nil {
			return id, err
		}
		t := &texts{claims: c, lenient: lenient, base: base + "/", home: home}
		id = f(t, id)
		return id, t.err
	}, nil
}

// newGitHubMapper certifies workflows of GitHub Actions.
func newGitHubMapper(r entry, _ Library) (mapFunc, error) {
	return byClaims(r, "url", func(t *texts, id identity.Identity) identity.Identity {
		t.need("job_workflow_ref")
		sha, event, repository := t.need("sha"), t.need("event_name"), t.need("repository")
		workflow, ref := t.need("workflow"), t.need("ref")
		jobSHA, runner, repositoryID := t.need("job_workflow_sha"), t.need("runner_environment"), t.need("repository_id")
		t.need("repository_owner")
		ownerID, visibility := t.need("repository_owner_id"), t.need("repository_visibility")
		t.need("workflow_ref")
		workflowSHA := t.need("workflow_sha")
		t.need("run_id")
		t.need("run_attempt")
		san := t.path("@job_workflow_ref")
		return named(id, san, map[identity.Extension]string{
			identity.GitHubWorkflowTrigger: event, identity.GitHubWorkflowSHA: sha, identity.GitHubWorkflowName: workflow,
			identity.GitHubWorkflowRepository: repository, identity.GitHubWorkflowRef: ref,
			identity.BuildSignerURI: san, identity.BuildSignerDigest: jobSHA, identity.RunnerEnvironment: runner,
			identity.SourceRepositoryURI: t.path("@repository"), identity.SourceRepositoryDigest: sha,
			identity.SourceRepositoryRef:        ref,
			identity.SourceRepositoryIdentifier: repositoryID,
			identity.SourceRepositoryOwnerURI:   t.path("@repository_owner"),
			identity.SourceRepositoryOwnerID:    ownerID, identity.BuildConfigURI: t.path("@workflow_ref"),
			identity.BuildConfigDigest: workflowSHA, identity.BuildTrigger: event,
			identity.RunInvocationURI: t.path("@repository", "/actions/runs/", "@run_id",
				"/attempts/", "@run_attempt"),
			identity.SourceRepositoryVisibility: visibility,
		})
	})
}

// newGitLabMapper certifies pipelines of GitLab.
func newGitLabMapper(r entry, _ Library) (mapFunc, error) {
	return byClaims(r, "url", func(t *texts, id identity.Identity) identity.Identity {
		t.need("project_path")
		source := t.need("pipeline_source")
		t.need("pipeline_id")
		t.need("ci_config_ref_uri")
		t.need("job_id")
		ref, refType := t.need("ref"), t.need("ref_type")
		t.need("namespace_path")
		namespaceID, projectID := t.need("namespace_id"), t.need("project_id")
		sha, runner := t.need("sha"), t.need("runner_environment")
		configSHA, visibility := t.may("ci_config_sha"), t.may("project_visibility")
		t.fail(runnerID(t.claims["runner_id"]))
		switch refType {
		case "branch":
			ref = "refs/heads/" + ref
		case "tag":
			ref = "refs/tags/" + ref
		default:
			t.fail(badPart("ref_type", "neither branch nor tag"))
		}
		rules := uriRules{}
		if t.home && !t.lenient {
			rules.under = t.base
		}
		san := t.uri(rules, "https://", "@ci_config_ref_uri")
		return named(id, san, map[identity.Extension]string{
			identity.BuildSignerURI: san, identity.BuildSignerDigest: configSHA, identity.RunnerEnvironment: runner,
			identity.SourceRepositoryURI: t.path("@project_path"), identity.SourceRepositoryDigest: sha,
			identity.SourceRepositoryRef:        ref,
			identity.SourceRepositoryIdentifier: projectID,
			identity.SourceRepositoryOwnerURI:   t.path("@namespace_path"),
			identity.SourceRepositoryOwnerID:    namespaceID, identity.BuildConfigURI: san,
			identity.BuildConfigDigest: configSHA,
			identity.BuildTrigger:      source, identity.RunInvocationURI: t.path("@project_path", "/-/jobs/", "@job_id"),
			identity.SourceRepositoryVisibility: visibility,
		})
	})
}

// runnerID checks the one claim that is a number: whole, and not zero.
func runnerID(v any) error {
	n, ok := v.(json.Number)
	if i, err := n.Int64(); ok && err == nil && i != 0 {
		return nil
	}
	if v == nil {
		return fault.New(fault.ClaimMissing, nil, "claim", "runner_id")
	}
	return fault.New(fault.ClaimInvalid, fmt.Errorf("not a number of a runner"), "claim", "runner_id")
}

// newBuildkiteMapper certifies pipelines of Buildkite.
func newBuildkiteMapper(r entry, _ Library) (mapFunc, error) {
	return byClaims(r, "url", func(t *texts, id identity.Identity) identity.Identity {
		t.need("organization_slug")
		t.need("pipeline_slug")
		rules := uriRules{joined: true, segments: []string{"organization_slug", "pipeline_slug"}}
		return named(id, t.uri(rules, "", "@organization_slug", "/", "@pipeline_slug"), nil)
	})
}

// newCodefreshMapper certifies pipelines of Codefresh, whose tokens name the platform.
func newCodefreshMapper(r entry, _ Library) (mapFunc, error) {
	fixed := len(r.Parameters) > 0
	return byClaims(r, "platform_url", func(t *texts, id identity.Identity) identity.Identity {
		t.need("account_id")
		t.need("pipeline_id")
		t.need("workflow_id")
		platform, begin := t.may("platform_url"), "@platform_url"
		switch {
		case fixed && platform != "" && platform+"/" != t.base:
			t.fail(badPart("platform_url", "is not the operator's setting of that name"))
			begin = ""
		case platform == "" || fixed:
			begin = ""
		}
		if !t.lenient { // Fulcio lets these be empty; the URI would then mean another pipeline
			t.need("account_name")
			t.need("pipeline_name")
		}
		repository, ref, runner := t.may("scm_repo_url"), t.may("scm_ref"), t.may("runner_environment")
		rules := uriRules{
			joined: true, segments: []string{"account_name", "account_id", "pipeline_id", "workflow_id"},
			free: "pipeline_name",
		}
		at := func(rules uriRules, parts ...string) string {
			if begin != "" {
				parts = slices.Concat([]string{begin, "/"}, parts)
			} else {
				parts = slices.Concat([]string{""}, parts) // the base has its slash
			}
			return t.uri(rules, parts...)
		}
		san := at(rules, "@account_name", "/", "@pipeline_name", ":", "@account_id", "/", "@pipeline_id")
		rules.free = ""
		build := at(rules, "build/", "@workflow_id")
		return named(id, san, map[identity.Extension]string{
			identity.BuildSignerURI: build, identity.RunnerEnvironment: runner,
			identity.SourceRepositoryURI: repository, identity.SourceRepositoryRef: ref,
			identity.BuildConfigURI: at(rules, "api/pipelines/", "@pipeline_id"), identity.RunInvocationURI: build,
		})
	})
}
