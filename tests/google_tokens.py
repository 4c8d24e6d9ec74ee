"""Google's token server as tests use it, within the test, and a service account that it knows."""
import base64
import json
import pathlib
import sys
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import HttpServer, run  # noqa: E402


class Tokens(HttpServer):
    """A token server that believes only what the account's key has signed."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.given, self.refuse, self.lives = folder, 0, None, 3600
        for command in (["genpkey", "-algorithm", "RSA", "-out", "key"], ["pkey", "-in", "key", "-pubout", "-out", "pub"]):
            done = run(["openssl", *command], cwd=folder)
            assert done.exit == 0, done
        self.account = {"type": "service_account", "client_email": "crawler@shop.iam", "private_key_id": "k1",
                        "private_key": (folder / "key").read_text(), "token_uri": self.url + "/token"}

    def handle(self, request):
        form = urllib.parse.parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())
        body, status = {"error": "invalid_grant", "error_description": self.refuse or "Invalid JWT Signature."}, 400
        head, claims, signature = form["assertion"][0].split(".")
        decode = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))  # noqa: E731
        (self.folder / "sig").write_bytes(decode(signature))
        verified = run(["openssl", "dgst", "-sha256", "-verify", "pub", "-signature", "sig"], f"{head}.{claims}", cwd=self.folder)
        claims, head = json.loads(decode(claims)), json.loads(decode(head))
        good = (verified.exit == 0 and claims["iss"] == "crawler@shop.iam" and claims["aud"] == self.url + "/token"
                and claims["exp"] - claims["iat"] == 3600 and "firebase.database" in claims["scope"]
                and head == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
                and form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"])
        if good and not self.refuse:
            self.given += 1
            body, status = {"access_token": f"secret-token-{self.given}", "expires_in": self.lives, "token_type": "Bearer"}, 200
        text = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)
