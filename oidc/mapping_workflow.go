package oidc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
)

// The four types here are older than profiles. Their claims are typed, and their URIs are joined as paths, so that dots and
// double slashes are cleaned; profiles do neither.

// texts are claims read in one go: the first that is missing or no text is the error.
type texts struct {
	claims  claims
	lenient bool
	err     error
}

// need returns a claim that must be there.
func (t *texts) need(name string) string {
	s, err := t.claims.text(name)
	if t.err == nil {
		t.err = err
	}
	return s
}

// path returns a claim that must be there and becomes a part of a path: one that would lead elsewhere, or that another
// text would become the same path as, is refused (D13, D15).
func (t *texts) path(name string) string {
	s := t.need(name)
	if t.err == nil && !t.lenient && (dotted(s) || slashed(s) || escaped(s)) {
		t.err = fault.New(fault.ClaimInvalid, errors.New("leads out of its path, or is not the only way to write it"), "claim", name)
	}
	return s
}

// segment is path for what stands between two slashes.
func (t *texts) segment(name string) string {
	s := t.path(name)
	if t.err == nil && !t.lenient && strings.Contains(s, "/") {
		t.err = fault.New(fault.ClaimInvalid, errors.New("has a slash"), "claim", name)
	}
	return s
}

// slashed reports whether joining would drop a slash of path.
func slashed(path string) bool { return strings.HasPrefix(path, "/") || strings.Contains(path, "//") }

// escaped reports whether path has a percent sign that joining would take for an escape (RFC 3986 §2.1).
func escaped(path string) bool {
	for i := 0; i+2 < len(path); i++ {
		if path[i] == '%' && strings.Trim(path[i+1:i+3], "0123456789abcdefABCDEF") == "" {
			return true
		}
	}
	return false
}

// may returns a claim that may be absent.
func (t *texts) may(name string) string {
	s, isText := t.claims[name].(string)
	if t.err == nil && !isText && t.claims[name] != nil {
		t.err = fault.New(fault.ClaimInvalid, errors.New("not a text"), "claim", name)
	}
	return s
}

// join is base with path elements, cleaned.
func join(base string, elem ...string) (string, error) {
	u, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	return u.JoinPath(elem...).String(), nil
}

// named gives id its URI and extensions; an empty extension stays away.
func named(id identity.Identity, san string, extensions map[identity.Extension]string) identity.Identity {
	id.SAN = identity.SAN{Kind: identity.URI, Value: san}
	for x, v := range extensions {
		id.Extensions.Set(x, v)
	}
	return id
}

// paths joins several paths onto one base; the first failure is kept.
type paths struct {
	base string
	err  error
}

func (p *paths) at(elem ...string) string {
	s, err := join(p.base, elem...)
	if p.err == nil && err != nil {
		p.err = fault.New(fault.ClaimInvalid, errors.New("the address is not a URL"), "claim", "platform_url")
	}
	return s
}

// byClaims is a mapper that reads claims one by one: the first that is missing or wrong is the error, before what f says.
func byClaims(r IssuerConfig, f func(*texts, identity.Identity) (identity.Identity, error)) mapper {
	lenient := r.Compat == "fulcio"
	return func(c claims) (identity.Identity, error) {
		id, err := bySubject(c)
		if err != nil {
			return id, err
		}
		t := &texts{claims: c, lenient: lenient}
		id, err = f(t, id)
		if t.err != nil {
			err = t.err
		}
		return id, err
	}
}

// newGitHubMapper certifies workflows of GitHub Actions.
func newGitHubMapper(r IssuerConfig, _ library) (mapper, error) {
	return byClaims(r, func(t *texts, id identity.Identity) (identity.Identity, error) {
		jobRef, sha, event, repository := t.path("job_workflow_ref"), t.need("sha"), t.need("event_name"), t.path("repository")
		workflow, ref := t.need("workflow"), t.need("ref")
		jobSHA, runner, repositoryID := t.need("job_workflow_sha"), t.need("runner_environment"), t.need("repository_id")
		owner, ownerID, visibility := t.path("repository_owner"), t.need("repository_owner_id"), t.need("repository_visibility")
		workflowRef, workflowSHA := t.path("workflow_ref"), t.need("workflow_sha")
		runID, attempt := t.path("run_id"), t.path("run_attempt")
		p := &paths{base: "https://github.com/"}
		id = named(id, p.at(jobRef), map[identity.Extension]string{
			identity.GitHubWorkflowTrigger: event, identity.GitHubWorkflowSHA: sha, identity.GitHubWorkflowName: workflow,
			identity.GitHubWorkflowRepository: repository, identity.GitHubWorkflowRef: ref,
			identity.BuildSignerURI: p.at(jobRef), identity.BuildSignerDigest: jobSHA, identity.RunnerEnvironment: runner,
			identity.SourceRepositoryURI: p.at(repository), identity.SourceRepositoryDigest: sha, identity.SourceRepositoryRef: ref,
			identity.SourceRepositoryIdentifier: repositoryID, identity.SourceRepositoryOwnerURI: p.at(owner), identity.SourceRepositoryOwnerID: ownerID,
			identity.BuildConfigURI: p.at(workflowRef), identity.BuildConfigDigest: workflowSHA, identity.BuildTrigger: event,
			identity.RunInvocationURI:           p.at(repository, "actions/runs", runID, "attempts", attempt),
			identity.SourceRepositoryVisibility: visibility,
		})
		return id, p.err
	}), nil
}

// newGitLabMapper certifies pipelines of gitlab.com.
func newGitLabMapper(r IssuerConfig, _ library) (mapper, error) {
	return byClaims(r, func(t *texts, id identity.Identity) (identity.Identity, error) {
		project, source := t.path("project_path"), t.need("pipeline_source")
		t.need("pipeline_id")
		configRef, jobID, ref, refType := t.need("ci_config_ref_uri"), t.path("job_id"), t.need("ref"), t.need("ref_type")
		namespace, namespaceID, projectID := t.path("namespace_path"), t.need("namespace_id"), t.need("project_id")
		sha, runner := t.need("sha"), t.need("runner_environment")
		configSHA, visibility := t.may("ci_config_sha"), t.may("project_visibility")
		if t.err == nil {
			t.err = runnerID(t.claims["runner_id"])
		}
		switch {
		case t.err != nil:
			return id, t.err
		case refType == "branch":
			ref = "refs/heads/" + ref
		case refType == "tag":
			ref = "refs/tags/" + ref
		default:
			return id, fault.New(fault.ClaimInvalid, errors.New("neither branch nor tag"), "claim", "ref_type")
		}
		u, err := url.Parse("https://" + configRef)
		if err != nil || !t.lenient && (u.User != nil || dotted(configRef)) {
			return id, fault.New(fault.ClaimInvalid, errors.New("not a URL without its scheme"), "claim", "ci_config_ref_uri")
		}
		p := &paths{base: "https://gitlab.com/"}
		id = named(id, u.String(), map[identity.Extension]string{
			identity.BuildSignerURI: u.String(), identity.BuildSignerDigest: configSHA, identity.RunnerEnvironment: runner,
			identity.SourceRepositoryURI: p.at(project), identity.SourceRepositoryDigest: sha, identity.SourceRepositoryRef: ref,
			identity.SourceRepositoryIdentifier: projectID, identity.SourceRepositoryOwnerURI: p.at(namespace), identity.SourceRepositoryOwnerID: namespaceID,
			identity.BuildConfigURI: u.String(), identity.BuildConfigDigest: configSHA, identity.BuildTrigger: source,
			identity.RunInvocationURI: p.at(project, "/-/jobs/", jobID), identity.SourceRepositoryVisibility: visibility,
		})
		return id, p.err
	}), nil
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
func newBuildkiteMapper(r IssuerConfig, _ library) (mapper, error) {
	return byClaims(r, func(t *texts, id identity.Identity) (identity.Identity, error) {
		organization, pipeline := t.segment("organization_slug"), t.segment("pipeline_slug")
		p := &paths{base: "https://buildkite.com"}
		return named(id, p.at(organization, pipeline), nil), p.err
	}), nil
}

// newCodefreshMapper certifies pipelines of Codefresh, whose tokens name the platform.
func newCodefreshMapper(r IssuerConfig, _ library) (mapper, error) {
	return byClaims(r, func(t *texts, id identity.Identity) (identity.Identity, error) {
		account, pipeline, workflow := t.segment("account_id"), t.segment("pipeline_id"), t.segment("workflow_id")
		platform := t.may("platform_url")
		name, path := t.segment, t.path // Fulcio lets these be empty; the URI would then mean another pipeline
		if t.lenient {
			name, path = t.may, t.may
		}
		accountName, pipelineName := name("account_name"), path("pipeline_name")
		repository, ref, runner := t.may("scm_repo_url"), t.may("scm_ref"), t.may("runner_environment")
		if platform == "" {
			platform = "https://g.codefresh.io"
		}
		p := &paths{base: platform}
		id = named(id, p.at(accountName, pipelineName+":"+account+"/"+pipeline), map[identity.Extension]string{
			identity.BuildSignerURI: p.at("build", workflow), identity.RunnerEnvironment: runner,
			identity.SourceRepositoryURI: repository, identity.SourceRepositoryRef: ref,
			identity.BuildConfigURI: p.at("api/pipelines", pipeline), identity.RunInvocationURI: p.at("build", workflow),
		})
		return id, p.err
	}), nil
}
