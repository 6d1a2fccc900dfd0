//! Gets a certificate, signs, and verifies, with what the crate gives to its users.
//!
//! mayfly-e2e request CA_URL TOKEN_FILE CHALLENGE OUT
//! mayfly-e2e sign CA_URL REKOR_URL TOKEN_FILE CHALLENGE ARTIFACT BUNDLE
//! mayfly-e2e verify TRUST_CONFIG ARTIFACT BUNDLE IDENTITY ISSUER
//!
//! The crate's SigningContext needs a keyring of CT logs, whose type is private in this version: it signs with the
//! public instance only. "sign" does the same with the crate's clients of the CA and of Rekor.
use base64::{engine::general_purpose::STANDARD, Engine};
use sha2::{Digest, Sha256};
use sigstore::bundle::verify::{policy::Identity, Verifier};
use sigstore::crypto::signing_key::SigStoreSigner;
use sigstore::crypto::SigningScheme;
use sigstore::fulcio::{FulcioClient, TokenProvider};
use sigstore::rekor::apis::{configuration::Configuration, entries_api::create_log_entry};
use sigstore::rekor::models::hashedrekord::{AlgorithmKind, Data, Hash, PublicKey, Signature, Spec};
use sigstore::rekor::models::ProposedEntry;
use sigstore::trust::sigstore::SigstoreTrustRoot;
use sigstore_protobuf_specs::dev::sigstore::bundle::v1::{
    bundle, verification_material, Bundle, VerificationMaterial,
};
use sigstore_protobuf_specs::dev::sigstore::common::v1::{
    HashAlgorithm, HashOutput, MessageSignature, X509Certificate, X509CertificateChain,
};
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use url::Url;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args[0].as_str() {
        "request" => {
            let (_signer, chain) = certify(&args[1], &args[2], &args[3]).await?;
            fs::write(&args[4], chain)?;
            Ok(())
        }
        "sign" => sign(&args[1..]).await,
        _ => verify(&args[1..]).await,
    }
}

/// Requests a certificate, and returns the signer of its key and the chain in PEM.
async fn certify(ca: &str, token: &str, challenge: &str) -> Result<(SigStoreSigner, Vec<u8>), Box<dyn Error>> {
    let text = fs::read_to_string(token)?;
    let token = openidconnect::core::CoreIdToken::from_str(text.trim())?;
    let client = FulcioClient::new(Url::parse(ca)?, TokenProvider::Static((token, challenge.to_string())));
    let (signer, chain) = client.request_cert(SigningScheme::ECDSA_P256_SHA256_ASN1).await?;
    Ok((signer, chain.as_ref().to_vec()))
}

async fn sign(args: &[String]) -> Result<(), Box<dyn Error>> {
    let (signer, chain) = certify(&args[0], &args[2], &args[3]).await?;
    let leaf = pem::parse_many(chain)?.remove(0);
    let artifact = fs::read(&args[4])?;
    let digest = Sha256::digest(&artifact).to_vec();
    let signature = signer.sign(&artifact)?;
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let certificate = pem::encode_config(&leaf, config);
    let entry = create_log_entry(
        &Configuration { base_path: args[1].clone(), ..Default::default() },
        ProposedEntry::Hashedrekord {
            api_version: "0.0.1".to_owned(),
            spec: Spec::new(
                Signature::new(STANDARD.encode(&signature), PublicKey::new(STANDARD.encode(certificate))),
                Data::new(Hash::new(AlgorithmKind::sha256, hex::encode(&digest))),
            ),
        },
    )
    .await?;
    let entry = entry.try_into().map_err(|_| "the crate cannot convert the entry")?;
    let signed = Bundle {
        media_type: "application/vnd.dev.sigstore.bundle+json;version=0.2".to_owned(),
        verification_material: Some(VerificationMaterial {
            timestamp_verification_data: None,
            tlog_entries: vec![entry],
            content: Some(verification_material::Content::X509CertificateChain(X509CertificateChain {
                certificates: vec![X509Certificate { raw_bytes: leaf.into_contents() }],
            })),
        }),
        content: Some(bundle::Content::MessageSignature(MessageSignature {
            message_digest: Some(HashOutput { algorithm: HashAlgorithm::Sha2256.into(), digest }),
            signature,
        })),
    };
    fs::write(&args[5], serde_json::to_string(&signed)?)?;
    Ok(())
}

async fn verify(args: &[String]) -> Result<(), Box<dyn Error>> {
    let root = SigstoreTrustRoot::from_client_trust_config(&PathBuf::from(&args[0]))?;
    let verifier = Verifier::new(Default::default(), root)?;
    let bundle = serde_json::from_str(&fs::read_to_string(&args[2])?)?;
    let policy = Identity::new(&args[3], &args[4]);
    verifier.verify(tokio::fs::File::open(&args[1]).await?, bundle, &policy, true).await?;
    println!("verified");
    Ok(())
}
