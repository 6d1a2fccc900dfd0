//! mayfly-e2e CA_URL TOKEN_FILE CHALLENGE OUT: gets a certificate as the crate's users do, and writes the chain.
use sigstore::crypto::SigningScheme;
use sigstore::fulcio::{FulcioClient, TokenProvider};
use std::str::FromStr;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let text = std::fs::read_to_string(&args[2])?;
    let token = openidconnect::core::CoreIdToken::from_str(text.trim())?;
    let client = FulcioClient::new(
        url::Url::parse(&args[1])?,
        TokenProvider::Static((token, args[3].clone())),
    );
    let (_signer, chain) = client.request_cert(SigningScheme::ECDSA_P256_SHA256_ASN1).await?;
    std::fs::write(&args[4], chain.as_ref())?;
    Ok(())
}
