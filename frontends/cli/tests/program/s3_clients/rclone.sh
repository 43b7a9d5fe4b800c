# A tree there and back by checksums, what changed and what went too, and a copy on the server.
export RCLONE_CONFIG_S_TYPE=s3 RCLONE_CONFIG_S_PROVIDER=Other RCLONE_CONFIG_S_ENV_AUTH=true RCLONE_CONFIG_S_ENDPOINT="$ENDPOINT"
export RCLONE_CONFIG_S_FORCE_PATH_STYLE=true RCLONE_CONFIG=/dev/null
rclone="rclone --retries 1 --low-level-retries 2 -q --s3-upload-cutoff 8Mi --s3-chunk-size 5Mi"
$rclone mkdir s:rclone
$rclone sync --checksum tree s:rclone/tree
$rclone check tree s:rclone/tree
echo changed > "tree/sub/a chunk"
rm tree/nothing
$rclone sync --checksum tree s:rclone/tree
$rclone sync --checksum s:rclone/tree back
diff -r tree back
echo "changed there" | $rclone rcat s:rclone/tree/there
$rclone sync --checksum s:rclone/tree tree
test "$(cat tree/there)" = "changed there"
$rclone copyto s:rclone/tree/long s:rclone/copy
$rclone copyto s:rclone/copy copy
cmp tree/long copy
$rclone purge s:rclone
! $rclone lsf s:rclone 2>/dev/null | grep -q .
