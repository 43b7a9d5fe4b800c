# An upload in parts, a tree, a range, what is told of an object, and the removal of all of it.
aws="aws --endpoint-url $ENDPOINT"
$aws s3 mb s3://aws
$aws s3 cp --quiet tree/long s3://aws/long
$aws s3 cp --quiet s3://aws/long long
cmp tree/long long
$aws s3api get-object --bucket aws --key long --range bytes=1000000-1999999 part > told
cmp -n 1000000 -i 1000000:0 tree/long part
test "$(wc -c < part)" = 1000000
$aws s3 sync --quiet tree s3://aws/tree
test -z "$($aws s3 sync tree s3://aws/tree)"
$aws s3 sync --quiet s3://aws/tree back
diff -r tree/sub back/sub
$aws s3 cp --quiet --metadata color=blue --content-type text/x-own "tree/sub/short" s3://aws/short
$aws s3api head-object --bucket aws --key short > told
grep -q '"color": "blue"' told
grep -q '"ContentType": "text/x-own"' told
! $aws s3api head-object --bucket aws --key absent 2> refused
grep -q 404 refused
$aws s3 rb --force s3://aws > told
$aws s3 ls > left
! grep -q aws left
