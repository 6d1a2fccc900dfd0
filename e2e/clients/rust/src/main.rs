//! Gets a certificate, signs, and verifies, as the crate's users do.
//!
//! mayfly-e2e request CA_URL TOKEN_FILE CHALLENGE OUT
//! mayfly-e2e sign TRUST_CONFIG CA_URL REKOR_URL TOKEN_FILE ARTIFACT BUNDLE
//! mayfly-e2e verify TRUST_CONFIG ARTIFACT BUNDLE IDENTITY ISSUER
use sigstore::bundle::sign::SigningContext;
use sigstore::bundle::verify::{policy::Identity, Verifier};
use sigstore::crypto::keyring::Keyring;
use sigstore::crypto::SigningScheme;
use sigstore::fulcio::oauth::OauthTokenProvider;
use sigstore::fulcio::{FulcioClient, TokenProvider};
use sigstore::oauth::IdentityToken;
use sigstore::rekor::apis::configuration::Configuration;
use sigstore::trust::sigstore::SigstoreTrustRoot;
use sigstore::trust::TrustRoot;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use url::Url;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args[0].as_str() {
        "request" => request(&args[1..]).await,
        "sign" => sign(&args[1..]).await,
        _ => verify(&args[1..]).await,
    }
}

async fn request(args: &[String]) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(&args[1])?;
    let token = openidconnect::core::CoreIdToken::from_str(text.trim())?;
    let client = FulcioClient::new(Url::parse(&args[0])?, TokenProvider::Static((token, args[2].clone())));
    let (_signer, chain) = client.request_cert(SigningScheme::ECDSA_P256_SHA256_ASN1).await?;
    fs::write(&args[3], chain.as_ref())?;
    Ok(())
}

async fn sign(args: &[String]) -> Result<(), Box<dyn Error>> {
    let root = SigstoreTrustRoot::from_client_trust_config(&PathBuf::from(&args[0]))?;
    let context = SigningContext::new(
        FulcioClient::new(Url::parse(&args[1])?, TokenProvider::Oauth(OauthTokenProvider::default())),
        Configuration { base_path: args[2].clone(), ..Default::default() },
        Keyring::new(root.ctfe_keys()?.values().copied())?,
    );
    let token = IdentityToken::try_from(fs::read_to_string(&args[3])?.trim())?;
    let session = context.signer(token).await?;
    let signed = session.sign(tokio::fs::File::open(&args[4]).await?).await?;
    fs::write(&args[5], serde_json::to_string(&signed.to_bundle())?)?;
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
