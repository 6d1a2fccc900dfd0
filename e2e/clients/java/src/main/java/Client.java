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
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** Signs and verifies as a build plugin would. */
public class Client {
  /**
   * sign ROOT CONFIG TOKEN ARTIFACT BUNDLE [v1], verify ROOT ARTIFACT BUNDLE IDENTITY ISSUER, or repeat ROOT CONFIG
   * TOKEN DIR, which signs once a second until the file DIR/stop exists. With v1 the entry is of Rekor v1, as the client
   * has it by default.
   */
  public static void main(String[] args) throws Exception {
    if (args[0].equals("repeat")) {
      repeat(args);
      return;
    }
    if (args[0].equals("sign")) {
      sign(args, Path.of(args[4]), Path.of(args[5]));
      return;
    }
    var root = TrustedRootProvider.from(Path.of(args[1]));
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
  private static void sign(String[] args, Path artifact, Path bundle) throws Exception {
    var token = Files.readString(Path.of(args[3])).strip();
    try (var signer =
        KeylessSigner.builder()
            .trustedRootProvider(TrustedRootProvider.from(Path.of(args[1])))
            .signingConfigProvider(SigningConfigProvider.from(Path.of(args[2])))
            .signingAlgorithm(AlgorithmRegistry.SigningAlgorithm.PKIX_ECDSA_P256_SHA_256)
            .enableRekorV2(args.length < 7 || !args[6].equals("v1"))
            .forceCredentialProviders(OidcClients.of(TokenStringOidcClient.from(token)))
            .build()) {
      Files.writeString(bundle, signer.signFile(artifact).toJson());
    }
  }

  /** Prints for each signature: number, start in Unix milliseconds, ok or the error. */
  private static void repeat(String[] args) throws Exception {
    var dir = Path.of(args[4]);
    var pool = Executors.newFixedThreadPool(4); // a signature waits up to a second for its log entry
    var due = System.nanoTime();
    for (int i = 1; !Files.exists(dir.resolve("stop")); i++) {
      var n = i;
      pool.submit(() -> once(args, dir, n));
      due += 1_000_000_000L;
      Thread.sleep(Math.max(0, (due - System.nanoTime()) / 1_000_000));
    }
    pool.shutdown();
    pool.awaitTermination(1, TimeUnit.MINUTES);
  }

  private static void once(String[] args, Path dir, int n) {
    var began = System.currentTimeMillis();
    var result = "ok";
    try {
      var artifact = dir.resolve(n + ".txt");
      Files.writeString(artifact, dir.getFileName() + " " + n + "\n");
      sign(args, artifact, dir.resolve(n + ".json"));
    } catch (Throwable e) {
      result = e.toString();
      for (var cause = e.getCause(); cause != null; cause = cause.getCause()) {
        result += ": " + cause;
      }
      result = result.replaceAll("\\s+", " ");
    }
    System.out.println(n + " " + began + " " + result);
  }
}
