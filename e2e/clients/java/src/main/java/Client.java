import dev.sigstore.AlgorithmRegistry;
import dev.sigstore.KeylessSigner;
import dev.sigstore.KeylessVerifier;
import dev.sigstore.SigningConfigProvider;
import dev.sigstore.TrustedRootProvider;
import dev.sigstore.VerificationOptions;
import dev.sigstore.VerificationOptions.CertificateMatcher;
import dev.sigstore.bundle.Bundle;
import dev.sigstore.oidc.client.OidcClients;
import dev.sigstore.oidc.client.TokenStringOidcClient;
import dev.sigstore.strings.StringMatcher;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** Signs and verifies as a build plugin would. */
public class Client {
  /** sign ROOT CONFIG TOKEN ARTIFACT BUNDLE, or verify ROOT ARTIFACT BUNDLE IDENTITY ISSUER. */
  public static void main(String[] args) throws Exception {
    var root = TrustedRootProvider.from(Path.of(args[1]));
    if (args[0].equals("sign")) {
      var token = Files.readString(Path.of(args[3])).strip();
      try (var signer =
          KeylessSigner.builder()
              .trustedRootProvider(root)
              .signingConfigProvider(SigningConfigProvider.from(Path.of(args[2])))
              .signingAlgorithm(AlgorithmRegistry.SigningAlgorithm.PKIX_ECDSA_P256_SHA_256)
              .enableRekorV2(true)
              .forceCredentialProviders(OidcClients.of(TokenStringOidcClient.from(token)))
              .build()) {
        Files.writeString(Path.of(args[5]), signer.signFile(Path.of(args[4])).toJson());
      }
      return;
    }
    var matcher =
        CertificateMatcher.fulcio()
            .subjectAlternativeName(StringMatcher.string(args[4]))
            .issuer(StringMatcher.string(args[5]))
            .build();
    KeylessVerifier.builder()
        .trustedRootProvider(root)
        .build()
        .verify(
            Path.of(args[2]),
            Bundle.from(Path.of(args[3]), StandardCharsets.UTF_8),
            VerificationOptions.builder().addCertificateMatchers(matcher).build());
    System.out.println("verified");
  }
}
