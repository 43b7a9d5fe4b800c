"""An upload in parts of so many MiB by several threads, with checksums, and its bytes read again: boto3_parts.py MIB."""

import hashlib
import os
import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config


class Noise:
    """Bytes of a seed, of a given length, as a file that is read once; nothing of it is on a disk."""

    def __init__(self, length):
        self.left, self.number, self.rest, self.sum = length, 0, b"", hashlib.sha256()

    def read(self, size=-1):
        want = self.left if size is None or size < 0 else min(size, self.left)
        while len(self.rest) < want:
            block = hashlib.sha256(self.number.to_bytes(8, "big")).digest() * 4096
            self.rest, self.number = self.rest + block, self.number + 1
        got, self.rest = self.rest[:want], self.rest[want:]
        self.left -= want
        self.sum.update(got)
        return got


length = int(sys.argv[1]) << 20
s3 = boto3.client("s3", endpoint_url=os.environ["ENDPOINT"], config=Config(s3={"addressing_style": "path"}))
s3.create_bucket(Bucket="boto3")
noise = Noise(length)
config = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20, max_concurrency=4)
s3.upload_fileobj(noise, "boto3", "long", Config=config)
told = s3.head_object(Bucket="boto3", Key="long")
assert told["ContentLength"] == length, told
assert told["ETag"].strip('"').endswith(f"-{-(-length // (8 << 20))}"), told

again, read = hashlib.sha256(), 0
for chunk in s3.get_object(Bucket="boto3", Key="long")["Body"].iter_chunks(1 << 20):
    again.update(chunk)
    read += len(chunk)
assert read == length and again.digest() == noise.sum.digest(), (read, length)

# An upload that is given up leaves nothing.
begun = s3.create_multipart_upload(Bucket="boto3", Key="half")
s3.upload_part(Bucket="boto3", Key="half", UploadId=begun["UploadId"], PartNumber=1, Body=b"part")
assert len(s3.list_multipart_uploads(Bucket="boto3")["Uploads"]) == 1
s3.abort_multipart_upload(Bucket="boto3", Key="half", UploadId=begun["UploadId"])
assert "Uploads" not in s3.list_multipart_uploads(Bucket="boto3")
