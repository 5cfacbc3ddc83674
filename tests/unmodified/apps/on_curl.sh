# An app on curl.
for path; do
    curl -sS -H "Authorization: $MOBULA_API_KEY" -w ' %{http_code}\n' "https://api.mobula.io$path" || exit
done
