# A template: the release workflow puts version, addresses and checksums in and attaches the formula to the release.
class Quince < Formula
  desc "Model server for MLX"
  homepage "@HOMEPAGE@"
  version "@VERSION@"
  license "MIT"

  on_macos do
    depends_on arch: :arm64
    depends_on macos: :sonoma

    url "@HOMEPAGE@/releases/download/v@VERSION@/quince-macos-arm64.tar.gz"
    sha256 "@SHA256_MACOS_ARM64@"
  end

  on_linux do
    depends_on arch: :x86_64

    url "@HOMEPAGE@/releases/download/v@VERSION@/quince-linux-x86_64.tar.gz"
    sha256 "@SHA256_LINUX_X86_64@"
  end

  def install
    bin.install "quince"
  end

  service do
    run [opt_bin/"quince", "serve"]
    keep_alive true
    log_path var/"log/quince.log"
    error_log_path var/"log/quince.log"
  end

  test do
    answer = shell_output("#{bin}/quince run 'What is the capital of France?' < /dev/null")
    assert_match "Paris", answer
  end
end
