package claims

// profiles by name. Claim names and addresses are from the documentation of the providers.
var profiles = map[string]shipped{
	"github-workflow": {
		Summary: "GitHub Actions; url: the web address, for GitHub Enterprise Server and GHE.com",
		Issuers: []string{
			"https://token.actions.githubusercontent.com",
			"https://token.actions.githubusercontent.com/*",
		},
		Parameters: []string{"url"},
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{"url": "https://github.com", "environment": ""},
			Claims:   []string{"environment"},
			SAN:      "{{.url}}/{{.job_workflow_ref}}",
			Extensions: map[string]string{
				"github-workflow-trigger":            "event_name",
				"github-workflow-sha":                "sha",
				"github-workflow-name":               "workflow",
				"github-workflow-repository":         "repository",
				"github-workflow-ref":                "ref",
				"build-signer-uri":                   "{{.url}}/{{.job_workflow_ref}}",
				"build-signer-digest":                "job_workflow_sha",
				"runner-environment":                 "runner_environment",
				"source-repository-uri":              "{{.url}}/{{.repository}}",
				"source-repository-digest":           "sha",
				"source-repository-ref":              "ref",
				"source-repository-identifier":       "repository_id",
				"source-repository-owner-uri":        "{{.url}}/{{.repository_owner}}",
				"source-repository-owner-identifier": "repository_owner_id",
				"build-config-uri":                   "{{.url}}/{{.workflow_ref}}",
				"build-config-digest":                "workflow_sha",
				"build-trigger":                      "event_name",
				"run-invocation-uri": "{{.url}}/{{.repository}}/actions/runs/{{.run_id}}/attempts" +
					"/{{.run_attempt}}",
				"source-repository-visibility-at-signing": "repository_visibility",
				"deployment-environment":                  "environment",
			},
		},
	},
	"gitlab-pipeline": {
		Summary: "GitLab CI; url: the web address of a self-managed instance",
		Issuers: []string{"https://gitlab.com"}, Parameters: []string{"url"}, Under: "url",
		Optional: []string{"ci_config_sha"}, // the pipeline is defined in another project
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{"url": "https://gitlab.com", "environment": ""},
			Claims:   []string{"environment"},
			SAN:      "https://{{.ci_config_ref_uri}}",
			Extensions: map[string]string{
				"build-signer-uri":         "https://{{.ci_config_ref_uri}}",
				"build-signer-digest":      `{{index . "ci_config_sha"}}`,
				"runner-environment":       "runner_environment",
				"source-repository-uri":    "{{.url}}/{{.project_path}}",
				"source-repository-digest": "sha",
				"source-repository-ref": `{{if eq .ref_type "branch"}}refs/heads/{{.ref}}{{else}}refs/tags` +
					`/{{.ref}}{{end}}`,
				"source-repository-identifier":            "project_id",
				"source-repository-owner-uri":             "{{.url}}/{{.namespace_path}}",
				"source-repository-owner-identifier":      "namespace_id",
				"build-config-uri":                        "https://{{.ci_config_ref_uri}}",
				"build-config-digest":                     `{{index . "ci_config_sha"}}`,
				"build-trigger":                           "pipeline_source",
				"run-invocation-uri":                      "{{.url}}/{{.project_path}}/-/jobs/{{.job_id}}",
				"source-repository-visibility-at-signing": "project_visibility",
				"deployment-environment":                  "environment",
			},
		},
	},
	"codefresh-workflow": {
		Summary:    "Codefresh",
		Issuers:    []string{"https://oidc.codefresh.io"},
		Parameters: []string{"platform_url"},
		Segments:   []string{"account_name", "account_id", "pipeline_id"},
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{
				"platform_url":       "https://g.codefresh.io",
				"scm_repo_url":       "",
				"scm_ref":            "",
				"runner_environment": "",
			},
			Claims: []string{"platform_url", "scm_repo_url", "scm_ref", "runner_environment"},
			SAN:    "{{.platform_url}}/{{.account_name}}/{{.pipeline_name}}:{{.account_id}}/{{.pipeline_id}}",
			Extensions: map[string]string{
				"build-signer-uri":      "{{.platform_url}}/build/{{.workflow_id}}",
				"runner-environment":    "runner_environment",
				"source-repository-uri": "scm_repo_url",
				"source-repository-ref": "scm_ref",
				"build-config-uri":      "{{.platform_url}}/api/pipelines/{{.pipeline_id}}",
				"run-invocation-uri":    "{{.platform_url}}/build/{{.workflow_id}}",
			},
		},
	},
	"buildkite-job": {
		Summary: "Buildkite", Issuers: []string{"https://agent.buildkite.com"}, Parameters: []string{"url"},
		Segments: []string{"organization_slug", "pipeline_slug"},
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{"url": "https://buildkite.com"}, Claims: []string{},
			SAN: "{{.url}}/{{.organization_slug}}/{{.pipeline_slug}}",
			Extensions: map[string]string{
				"runner-environment":       "runner_environment",
				"source-repository-digest": "build_commit",
				"build-trigger":            "build_source",
				"run-invocation-uri": "{{.url}}/{{.organization_slug}}/{{.pipeline_slug}}/builds" +
					"/{{.build_number}}#{{.job_id}}",
			},
		},
	},
	"circleci-job": {
		Summary: "CircleCI; each organization has its own issuer", Parameters: []string{"api_url", "platform_url"},
		Issuers:  []string{"https://oidc.circleci.com", "https://oidc.circleci.com/org/*"},
		Segments: []string{"oidc.circleci.com/project-id", "oidc.circleci.com/pipeline-definition-id"},
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{
				"api_url":      "https://circleci.com/api/v2",
				"platform_url": "https://app.circleci.com/",
			},
			Claims: []string{},
			SAN: `{{.api_url}}/projects/{{index . "oidc.circleci.com/project-id"}}` +
				`/pipeline-definitions/{{index . "oidc.circleci.com/pipeline-definition-id"}}`,
			Extensions: map[string]string{
				"build-signer-uri": `{{.api_url}}/projects/{{index . "oidc.circleci.com/project-id"}}` +
					`/pipeline-definitions/{{index . "oidc.circleci.com/pipeline-definition-id"}}`,
				"runner-environment": `{{if eq (index . "oidc.circleci.com/ssh-rerun") "true"}}` +
					`ssh-rerun{{else}}""{{end}}`,
				"source-repository-uri": `{{index . "oidc.circleci.com/vcs-origin"}}`,
				"source-repository-ref": `{{index . "oidc.circleci.com/vcs-ref"}}`,
				"build-config-uri":      `{{.api_url}}/pipeline/{{index . "oidc.circleci.com/pipeline-id"}}/config`,
				"run-invocation-uri": `{{.platform_url}}/workflow/{{index . "oidc.circleci.com/workflow-id"}}` +
					`/job/{{index . "oidc.circleci.com/job-id"}}`,
			},
		},
	},
	"buddy-pipeline": {
		Summary: "Buddy", Parameters: []string{"base_url"},
		Issuers:  []string{"https://oidc.buddyusercontent.com", "https://*-oidc.buddyusercontent.com"},
		Segments: []string{"workspace_domain", "project_name", "pipeline_id"},
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{"base_url": "https://app.buddy.works", "revision": "", "ref": ""},
			Claims:   []string{"base_url", "revision", "ref"}, // tokens of regions other than the first have a base_url
			SAN:      "{{.base_url}}/{{.workspace_domain}}/{{.project_name}}/pipelines/pipeline/{{.pipeline_id}}",
			Extensions: map[string]string{
				"build-signer-uri": "{{.base_url}}/{{.workspace_domain}}/{{.project_name}}/pipelines" +
					"/pipeline/{{.pipeline_id}}",
				"runner-environment":          "runner_environment",
				"source-repository-uri":       "{{.base_url}}/{{.workspace_domain}}/{{.project_name}}",
				"source-repository-digest":    "revision",
				"source-repository-ref":       "ref",
				"source-repository-owner-uri": "{{.base_url}}/{{.workspace_domain}}",
				"build-trigger":               "triggered_on",
				"run-invocation-uri": "{{.base_url}}/{{.workspace_domain}}/{{.project_name}}/pipelines" +
					"/pipeline/{{.pipeline_id}}/execution/{{.execution_id}}",
			},
		},
	},
	"azure-pipelines": {
		Summary:    "Azure Pipelines; url: the organization, https://dev.azure.com/ORGANIZATION",
		Parameters: []string{"url"},
		Segments:   []string{"prj_id", "def_id"},
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{"url": "", "rpo_uri": "", "rpo_ver": "", "rpo_ref": "", "rpo_id": ""},
			Claims:   []string{"rpo_uri", "rpo_ver", "rpo_ref", "rpo_id"},
			SAN:      "{{.url}}/{{.prj_id}}/_build?definitionId={{.def_id}}",
			Extensions: map[string]string{
				"build-signer-uri":                   "{{.url}}/{{.prj_id}}/_build?definitionId={{.def_id}}",
				"source-repository-uri":              "rpo_uri",
				"source-repository-digest":           "rpo_ver",
				"source-repository-ref":              "rpo_ref",
				"source-repository-identifier":       "rpo_id",
				"source-repository-owner-uri":        "{{.url}}",
				"source-repository-owner-identifier": "org_id",
				"run-invocation-uri":                 "{{.url}}/{{.prj_id}}/_build/results?buildId={{.run_id}}",
			},
		},
	},
	"bitbucket-pipelines": {
		Summary:    "Bitbucket Pipelines; each workspace has its own audience, ari:cloud:bitbucket::workspace/…",
		Parameters: []string{"url"},
		Issuers:    []string{"https://api.bitbucket.org/2.0/workspaces/*/pipelines-config/identity/oidc"},
		Segments:   []string{"workspaceUuid", "repositoryUuid"},
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{
				"url":                       "https://bitbucket.org",
				"branchName":                "",
				"deploymentEnvironmentUuid": "",
			},
			Claims: []string{"branchName", "deploymentEnvironmentUuid"},
			SAN:    "{{.url}}/{{.workspaceUuid}}/{{.repositoryUuid}}",
			Extensions: map[string]string{
				"build-signer-uri":                   "{{.url}}/{{.workspaceUuid}}/{{.repositoryUuid}}",
				"source-repository-uri":              "{{.url}}/{{.workspaceUuid}}/{{.repositoryUuid}}",
				"source-repository-identifier":       "repositoryUuid",
				"source-repository-owner-uri":        "{{.url}}/{{.workspaceUuid}}",
				"source-repository-owner-identifier": "workspaceUuid",
				"source-repository-ref":              `{{if eq .branchName ""}}{{else}}refs/heads/{{.branchName}}{{end}}`,
				"run-invocation-uri": "{{.url}}/{{.workspaceUuid}}/{{.repositoryUuid}}/pipelines/results" +
					"/{{.pipelineUuid}}/steps/{{.stepUuid}}",
				"deployment-environment": "deploymentEnvironmentUuid",
			},
		},
	},
	"jenkins": {
		Summary:    "Jenkins with the OpenID Connect Provider plugin; url: the root URL of Jenkins",
		Parameters: []string{"url"}, Under: "url",
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{"url": ""}, Claims: []string{},
			SAN: "{{.sub}}",
			Extensions: map[string]string{
				"build-signer-uri":   "sub",
				"build-config-uri":   "sub",
				"run-invocation-uri": "{{.sub}}{{.build_number}}/",
			},
		},
	},
	"google-cloud-service-account": {
		Summary: "Service accounts of Google Cloud, by e-mail address",
		Issuers: []string{"https://accounts.google.com"},
		Email:   &emailProfile{domains: []string{"*.gserviceaccount.com"}},
		Needs:   []string{"email", "email_verified", "sub"},
	},
	"aws-identity": {
		Summary:       "AWS outbound identity federation: the ARN of the role or user",
		Issuers:       []string{"https://*.tokens.sts.global.api.aws"},
		ProfileConfig: ProfileConfig{SAN: "{{.sub}}", Claims: []string{}}, Under: "arn:",
	},
	"hcp-terraform": {
		Summary:    "HCP Terraform; url: the web address of Terraform Enterprise",
		Issuers:    []string{"https://app.terraform.io"},
		Parameters: []string{"url"},
		Segments:   []string{"terraform_organization_name", "terraform_workspace_name"},
		ProfileConfig: ProfileConfig{
			Defaults: map[string]string{"url": "https://app.terraform.io"}, Claims: []string{},
			SAN: "{{.url}}/app/{{.terraform_organization_name}}/workspaces/{{.terraform_workspace_name}}",
			Extensions: map[string]string{
				"build-signer-uri": "{{.url}}/app/{{.terraform_organization_name}}/workspaces" +
					"/{{.terraform_workspace_name}}",
				"build-config-uri": "{{.url}}/app/{{.terraform_organization_name}}/workspaces" +
					"/{{.terraform_workspace_name}}",
				"build-trigger": "terraform_run_phase",
				"run-invocation-uri": "{{.url}}/app/{{.terraform_organization_name}}/workspaces" +
					"/{{.terraform_workspace_name}}/runs/{{.terraform_run_id}}",
			},
		},
	},
}
