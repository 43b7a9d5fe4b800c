# An upload in parts, a tree, listings and the removal of all of it.
host=${ENDPOINT#http://}
s3cmd="s3cmd --no-progress --no-ssl --host=$host --host-bucket=$host --region=us-east-1 --config=/dev/null --access_key=$AWS_ACCESS_KEY_ID --secret_key=$AWS_SECRET_ACCESS_KEY"
$s3cmd mb s3://s3cmd
$s3cmd put --multipart-chunk-size-mb=5 tree/long s3://s3cmd/long
$s3cmd get s3://s3cmd/long long
cmp tree/long long
$s3cmd sync tree/ s3://s3cmd/tree/ > told
grep -q ^upload told
$s3cmd sync tree/ s3://s3cmd/tree/ > told
! grep -q ^upload told
$s3cmd sync s3://s3cmd/tree/ back/
diff -r tree/sub back/sub
$s3cmd ls s3://s3cmd/tree/ > told
grep -q '/tree/nothing$' told
$s3cmd rb --recursive --force s3://s3cmd
$s3cmd ls > left
! grep -q s3cmd left
