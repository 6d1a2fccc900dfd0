package chart

import "slices"

// Row says what becomes of a value of the chart "fulcio" (charts/fulcio of github.com/sigstore/helm-charts).
type Row struct {
	// From is the value of the chart "fulcio", To that of ours; empty if there is none.
	From, To string
	// Note says what differs, or why there is none.
	Note string
	// Lost says that a setting is missing which had an effect.
	Lost bool

	same bool // the value is copied as it is
}

// Rows returns the table, for docs/kubernetes.md.
func Rows() []Row { return slices.Clone(rows) }

const (
	fixedContext = "the pods run as the restricted pod security standard demands, with the user 65532"
	ownImage     = "names the image of another program; write image.repository, image.tag or image.digest"
	noCerts      = "no job makes certificates: mayfly ca init makes them, and a Secret keeps them"
	logRelease   = "part of the URL of the log (ct.logs); the log itself stays a release of its own"
	notOurLog    = "the log stays a release of its own"
)

var rows = []Row{
	{From: "namespace.create", To: "namespace.create", same: true},
	{From: "namespace.name", Note: "helm install --namespace"},
	{From: "forceNamespace", Note: "helm install --namespace"},
	{From: "nameOverride", To: "nameOverride", same: true},
	{From: "imagePullSecrets", To: "image.pullSecrets", same: true},
	{
		From: "config.contents", To: "identity",
		Note: "the keys of the JSON form, such as ClientID, become those of YAML (client-id)",
	},
	{From: "config.format", Note: "the issuer file is YAML"},
	{From: "server.replicaCount", To: "replicas", same: true},
	{From: "server.name", Note: "objects are named RELEASE-mayfly, or as fullnameOverride says"},
	{From: "server.fullnameOverride", To: "fullnameOverride", same: true},
	{From: "server.svcPort", To: "service.port"},
	{From: "server.grpcSvcPort", To: "service.grpcPort"},
	{From: "server.service.type", To: "service.type", same: true},
	{
		From: "server.service.ports", To: "service.port, service.grpcPort",
		Note: "metrics are at the port 2112 of the Service RELEASE-mayfly-pods",
	},
	{
		From: "server.secret", To: "ca.secret",
		Note: "with ca.key: private, ca.chain: cert, ca.password: password",
	},
	{From: "server.logging.production", Note: "the log is always JSON"},
	{From: "server.image.registry", Note: ownImage},
	{From: "server.image.repository", Note: ownImage},
	{From: "server.image.version", Note: ownImage},
	{From: "server.image.pullPolicy", To: "image.pullPolicy", same: true},
	{From: "server.args.port", Note: "the pods listen on 5555; clients see the port of the Service"},
	{From: "server.args.grpcPort", Note: "the pods listen on 5554; clients see the port of the Service"},
	{
		From: "server.args.certificateAuthority", To: "ca, config.ca",
		Note: "fileca: ca; kmsca: config.ca.kms; pkcs11ca: config.ca.pkcs11 with mayfly-hsm; googleca: see below",
	},
	{From: "server.args.kms_resource", To: "config.ca.kms.key", Note: "the same URI"},
	{From: "server.args.kms_cert_chain", To: "files.chain.pem, config.ca.kms.chain"},
	{From: "server.args.hsm_caroot_id", Note: "mayfly-hsm names the key (--key)"},
	{
		From: "server.args.aws_hsm_root_ca_path", Lost: true,
		Note: "Fulcio has no such CA any more; use a key service or pkcs11 (docs/keys.md)",
	},
	{
		From: "server.args.gcp_private_ca_parent", Lost: true,
		Note: "Google's CA Service signs only as a parent of the issuing certificate: row --ca=googleca of " +
			"docs/compatibility.md. It has no effect with another certificateAuthority",
	},
	{
		From: "server.args.cloud_credential_config", To: "files.cloud_credential_config, env",
		Note: "GOOGLE_APPLICATION_CREDENTIALS names the file",
	},
	{From: "server.args.ct_log_url", To: "ct.logs[0].url", Note: "the log's public key is needed, too (ct.keys)"},
	{From: "server.args.disable_ct_log", To: "config.ct.none", Note: "with config.production: false"},
	{
		From: "server.extraArgs", Lost: true,
		Note: "mayfly migrate fulcio translates arguments into mayfly.yaml; write the settings to config",
	},
	{From: "server.awsKmsRegion", To: "env", Note: "AWS_REGION"},
	{From: "server.awsKmsCredentialsSecretName", To: "envFrom"},
	{From: "server.kmsType", Note: "the URI of the key says it"},
	{From: "server.grpcSvcTLS.secretName", To: "tls.secret", Note: "REST is then served with TLS, too"},
	{From: "server.grpcSvcTLS.certField", Note: "the Secret needs the keys tls.crt and tls.key"},
	{From: "server.grpcSvcTLS.keyField", Note: "the Secret needs the keys tls.crt and tls.key"},
	{From: "server.serviceAccount.create", To: "serviceAccount.create", same: true},
	{From: "server.serviceAccount.name", To: "serviceAccount.name", same: true},
	{From: "server.serviceAccount.annotations", To: "serviceAccount.annotations", same: true},
	{From: "server.serviceAccount.mountToken", To: "serviceAccount.token", same: true},
	{From: "server.ingress.http.enabled", To: "ingress.http.enabled", same: true},
	{From: "server.ingress.http.className", To: "ingress.http.className", same: true},
	{From: "server.ingress.http.annotations", To: "ingress.http.annotations", same: true},
	{From: "server.ingress.http.hosts", To: "ingress.http.hosts", same: true},
	{From: "server.ingress.http.tls", To: "ingress.http.tls", same: true},
	{From: "server.ingress.grpc.enabled", To: "ingress.grpc.enabled", same: true},
	{From: "server.ingress.grpc.className", To: "ingress.grpc.className", same: true},
	{From: "server.ingress.grpc.annotations", To: "ingress.grpc.annotations", same: true},
	{From: "server.ingress.grpc.hosts", To: "ingress.grpc.hosts", same: true},
	{From: "server.ingress.grpc.tls", To: "ingress.grpc.tls", same: true},
	{
		From: "server.ingresses", Lost: true,
		Note: "FrontendConfig, BackendConfig and the static address are objects of one cloud: write them and their " +
			"Ingress beside the chart, for the Service of the chart and its port",
	},
	{From: "server.securityContext", Note: fixedContext},
	{From: "server.containerSecurityContext", Note: fixedContext},
	{From: "server.podAnnotations", To: "podAnnotations", same: true},
	{From: "server.resources", To: "resources", same: true},
	{From: "server.tolerations", To: "tolerations", same: true},
	{From: "server.nodeSelector", To: "nodeSelector", same: true},
	{From: "server.affinity", To: "affinity", same: true},
	{From: "createcerts", Note: noCerts},
	{From: "init", Note: "no container runs before the server"},
	{From: "ctlog.enabled", Note: notOurLog},
	{From: "ctlog.name", To: "ct.logs[0].url", Note: logRelease},
	{From: "ctlog.namespace.name", To: "ct.logs[0].url", Note: logRelease},
	{From: "ctlog.createctconfig.logPrefix", To: "ct.logs[0].url", Note: logRelease},
	{From: "ctlog.*", Note: notOurLog},
	{From: "global", Note: "values for all charts of a release; none has an effect here"},
}
