package claims

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// The four types in this file existed before profiles. Each claim has one JSON type, and Fulcio joins the parts of
// their URIs as paths.

// claimReader reads claims one after the other and keeps the first error, so that a mapping is a list of reads.
type claimReader struct {
	claims  token.Claims
	lenient bool
	base    string // prefix of URIs
	ownBase bool   // base is a URL of the issuer's provider
	err     error
}

func (t *claimReader) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// required returns a claim that must be present.
func (t *claimReader) required(name string) string {
	s, err := t.claims.Text(name)
	if err == nil {
		err = checkText(name, s)
	}
	t.fail(err)
	return s
}

// optional returns a claim that may be absent.
func (t *claimReader) optional(name string) string {
	s, isString := t.claims[name].(string)
	if !isString && t.claims[name] != nil {
		t.fail(invalidClaim(name, "not a string"))
	}
	t.fail(checkText(name, s))
	return s
}

// uri returns the URI that the parts form: an @ and a name is a claim, anything else a literal. An empty first part is
// base.
func (t *claimReader) uri(rules uriRules, parts ...string) string {
	all := make([]part, 0, 8)
	for i, p := range parts {
		name, isClaim := strings.CutPrefix(p, "@")
		switch {
		case i == 0 && p == "":
			all = append(all, part{text: t.base})
		case isClaim:
			all = append(all, part{text: t.optional(name), claim: name})
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

// path returns the URI that the parts form below base.
func (t *claimReader) path(parts ...string) string {
	return t.uri(uriRules{joined: true}, slices.Concat([]string{""}, parts)...)
}

// withURI returns id with a URI and extensions. Empty extensions are omitted.
func withURI(id identity.Identity, san string, extensions map[identity.Extension]string) identity.Identity {
	id.SAN = identity.SAN{Kind: identity.URI, Value: san}
	for x, v := range extensions {
		id.Extensions.Set(x, v)
	}
	return id
}

// newWorkflowMapper returns a mapping in which f reads single claims. parameter is the parameter with the prefix of
// URIs, in the profile with the name of the type.
func newWorkflowMapper(r entry, parameter string,
	f func(*claimReader, identity.Identity) identity.Identity,
) (mapFunc, error) {
	s := profiles[r.Type]
	base, own := s.Defaults[parameter], s.isDefaultIssuer(r.issuer)
	if len(r.Parameters) > 0 {
		set, err := s.defaults(r)
		if err != nil {
			return nil, err
		}
		base, own = set[parameter], true
	}
	lenient := r.Lenient()
	return func(c token.Claims) (identity.Identity, error) {
		id, err := baseWithSubject(c)
		if err != nil {
			return id, err
		}
		t := &claimReader{claims: c, lenient: lenient, base: base + "/", ownBase: own}
		id = f(t, id)
		return id, t.err
	}, nil
}

// newGitHubMapper returns the mapping of the type github-workflow.
func newGitHubMapper(r entry, _ Library) (mapFunc, error) {
	return newWorkflowMapper(r, "url", func(t *claimReader, id identity.Identity) identity.Identity {
		t.required("job_workflow_ref")
		sha, event, repository := t.required("sha"), t.required("event_name"), t.required("repository")
		workflow, ref := t.required("workflow"), t.required("ref")
		jobSHA, runner, repositoryID := t.required("job_workflow_sha"), t.required("runner_environment"),
			t.required("repository_id")
		t.required("repository_owner")
		ownerID, visibility := t.required("repository_owner_id"), t.required("repository_visibility")
		t.required("workflow_ref")
		workflowSHA := t.required("workflow_sha")
		t.required("run_id")
		t.required("run_attempt")
		san := t.path("@job_workflow_ref")
		return withURI(id, san, map[identity.Extension]string{
			identity.GitHubWorkflowTrigger: event, identity.GitHubWorkflowSHA: sha,
			identity.GitHubWorkflowName:       workflow,
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

// newGitLabMapper returns the mapping of the type gitlab-pipeline.
func newGitLabMapper(r entry, _ Library) (mapFunc, error) {
	return newWorkflowMapper(r, "url", func(t *claimReader, id identity.Identity) identity.Identity {
		t.required("project_path")
		source := t.required("pipeline_source")
		t.required("pipeline_id")
		t.required("ci_config_ref_uri")
		t.required("job_id")
		ref, refType := t.required("ref"), t.required("ref_type")
		t.required("namespace_path")
		namespaceID, projectID := t.required("namespace_id"), t.required("project_id")
		sha, runner := t.required("sha"), t.required("runner_environment")
		configSHA, visibility := t.optional("ci_config_sha"), t.optional("project_visibility")
		t.fail(checkRunnerID(t.claims["runner_id"]))
		switch refType {
		case "branch":
			ref = "refs/heads/" + ref
		case "tag":
			ref = "refs/tags/" + ref
		default:
			t.fail(invalidClaim("ref_type", "neither branch nor tag"))
		}
		rules := uriRules{}
		if t.ownBase && !t.lenient {
			rules.under = t.base
		}
		san := t.uri(rules, "https://", "@ci_config_ref_uri")
		return withURI(id, san, map[identity.Extension]string{
			identity.BuildSignerURI: san, identity.BuildSignerDigest: configSHA, identity.RunnerEnvironment: runner,
			identity.SourceRepositoryURI: t.path("@project_path"), identity.SourceRepositoryDigest: sha,
			identity.SourceRepositoryRef:        ref,
			identity.SourceRepositoryIdentifier: projectID,
			identity.SourceRepositoryOwnerURI:   t.path("@namespace_path"),
			identity.SourceRepositoryOwnerID:    namespaceID, identity.BuildConfigURI: san,
			identity.BuildConfigDigest:          configSHA,
			identity.BuildTrigger:               source,
			identity.RunInvocationURI:           t.path("@project_path", "/-/jobs/", "@job_id"),
			identity.SourceRepositoryVisibility: visibility,
		})
	})
}

// checkRunnerID checks runner_id: an integer other than zero.
func checkRunnerID(v any) error {
	n, ok := v.(json.Number)
	if i, err := n.Int64(); ok && err == nil && i != 0 {
		return nil
	}
	if v == nil {
		return fault.New(fault.ClaimMissing, nil, "claim", "runner_id")
	}
	return fault.New(fault.ClaimInvalid, errors.New("not the number of a runner"), "claim", "runner_id")
}

// newBuildkiteMapper returns the mapping of the type buildkite-job.
func newBuildkiteMapper(r entry, _ Library) (mapFunc, error) {
	return newWorkflowMapper(r, "url", func(t *claimReader, id identity.Identity) identity.Identity {
		t.required("organization_slug")
		t.required("pipeline_slug")
		rules := uriRules{joined: true, segments: []string{"organization_slug", "pipeline_slug"}}
		return withURI(id, t.uri(rules, "", "@organization_slug", "/", "@pipeline_slug"), nil)
	})
}

// newCodefreshMapper returns the mapping of the type codefresh-workflow. A token may contain the URL of the platform.
func newCodefreshMapper(r entry, _ Library) (mapFunc, error) {
	fixed := len(r.Parameters) > 0
	return newWorkflowMapper(r, "platform_url", func(t *claimReader, id identity.Identity) identity.Identity {
		t.required("account_id")
		t.required("pipeline_id")
		t.required("workflow_id")
		platform, beginning := t.optional("platform_url"), "@platform_url"
		switch {
		case fixed && platform != "" && platform+"/" != t.base:
			t.fail(invalidClaim("platform_url", "differs from the operator's setting of that name"))
			beginning = ""
		case platform == "" || fixed:
			beginning = ""
		}
		if !t.lenient { // Fulcio accepts empty values, but the URI then names another pipeline
			t.required("account_name")
			t.required("pipeline_name")
		}
		repository, ref, runner := t.optional("scm_repo_url"), t.optional("scm_ref"), t.optional("runner_environment")
		rules := uriRules{
			joined: true, segments: []string{"account_name", "account_id", "pipeline_id", "workflow_id"},
			free: "pipeline_name",
		}
		at := func(rules uriRules, parts ...string) string {
			if beginning != "" {
				parts = slices.Concat([]string{beginning, "/"}, parts)
			} else {
				parts = slices.Concat([]string{""}, parts) // base ends with a slash
			}
			return t.uri(rules, parts...)
		}
		san := at(rules, "@account_name", "/", "@pipeline_name", ":", "@account_id", "/", "@pipeline_id")
		rules.free = ""
		build := at(rules, "build/", "@workflow_id")
		return withURI(id, san, map[identity.Extension]string{
			identity.BuildSignerURI: build, identity.RunnerEnvironment: runner,
			identity.SourceRepositoryURI: repository, identity.SourceRepositoryRef: ref,
			identity.BuildConfigURI: at(rules, "api/pipelines/", "@pipeline_id"), identity.RunInvocationURI: build,
		})
	})
}
