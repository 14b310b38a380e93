"""What boto3 raises, said in words that a user can act on."""

import botocore.exceptions as failures

REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "TokenRefreshRequired",
    "InvalidClientTokenId",
}
FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "MethodNotAllowed", "403", "405"}
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def code_of(error: failures.ClientError) -> str:
    """The S3 error code of a server's refusal."""
    return error.response.get("Error", {}).get("Code", "no code")


def explain(error: BaseException, doing: str) -> str:
    """The predicate of a sentence whose subject is the store, with the cure; no secret in it."""
    if isinstance(error, failures.ClientError):
        code = code_of(error)
        if code == "NoSuchBucket":
            return "does not exist; create the bucket, or correct the URL"
        if code in ("NoSuchKey", "404"):
            return f"cannot {doing}: there is no such object; write it again"
        if code in REFUSED:
            return f"refused the credentials ({code}); {CREDENTIALS} to those of that server"
        if code in FORBIDDEN:
            return f"forbids these credentials to {doing} ({code}); allow it, or use others"
        return f"answered {code} when asked to {doing}; see that server's log"
    no_login = (failures.NoCredentialsError, failures.PartialCredentialsError)
    if isinstance(error, no_login):
        return f"needs credentials; {CREDENTIALS}"
    if isinstance(error, (failures.HTTPClientError, failures.ConnectionError)):
        return (
            f"cannot be reached ({type(error).__name__}); start that server, or correct "
            "runtime.storage.endpoint or AWS_ENDPOINT_URL_S3"
        )
    return f"cannot be used to {doing} ({type(error).__name__}); correct the URL or AWS_* variables"
