package token

import "testing"

func BenchmarkParseObject(b *testing.B) {
	data := []byte(`{"jti":"example-id","sub":"repo:octo-org/octo-repo:ref:refs/heads/main","aud":"sigstore","ref":"refs/heads/main","sha":"example-sha","repository":"octo-org/octo-repo","repository_owner":"octo-org","actor_id":"12","repository_visibility":"private","repository_id":"74","repository_owner_id":"65","run_id":"example-run-id","run_number":"10","run_attempt":"2","runner_environment":"github-hosted","actor":"octocat","workflow":"example-workflow","head_ref":"","base_ref":"","event_name":"workflow_dispatch","ref_type":"branch","job_workflow_ref":"octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main","iss":"https://token.actions.githubusercontent.com","nbf":1632492967,"exp":1632493867,"iat":1632493567}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parseObject(data); err != nil {
			b.Fatal(err)
		}
	}
}
