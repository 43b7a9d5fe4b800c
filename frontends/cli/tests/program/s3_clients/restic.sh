# A backup, all of it read again by `check`, another one of what changed, and both restored.
export RESTIC_REPOSITORY="s3:$ENDPOINT/backups" RESTIC_PASSWORD=word
restic="restic -q -o s3.bucket-lookup=path"
$restic init
$restic backup tree
cp -r tree first
echo changed > "tree/sub/a chunk"
rm tree/nothing
$restic backup tree
$restic check --read-data
test "$($restic snapshots --json | grep -o '"short_id"' | wc -l)" = 2
oldest=$($restic snapshots --json | grep -o '"short_id":"[^"]*"' | head -n 1 | cut -d '"' -f 4)
$restic restore "$oldest" --target then
diff -r first "then$PWD/tree" 2>/dev/null || diff -r first then/tree
$restic restore latest --target now
diff -r tree "now$PWD/tree" 2>/dev/null || diff -r tree now/tree
$restic forget --keep-last 1 --prune
$restic check --read-data
