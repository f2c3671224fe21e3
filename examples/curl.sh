#!/usr/bin/env bash
# The server by curl alone. Start it with `make serve`, and then, in another terminal: bash examples/curl.sh
# Of your own server: BASE_URL=http://192.168.1.5:8000/v1 MODEL=my-model bash examples/curl.sh
set -euo pipefail

BASE_URL="${BASE_URL:-http://localhost:8000/v1}"
MODEL="${MODEL:-chinese-llama-alpaca-2}"
API_KEY="${API_KEY:-none}" # any text, unless the server was started with --api-key

# What each line below sends: a path, and a body of JSON. curl sends a body with POST by itself.
ask() {
  echo "== $1"
  curl -sS --fail-with-body "$BASE_URL/$1" \
    -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" "${@:2}"
  echo
}

# Which models are there?
ask models

# A chat: one question, one answer. The answer is in choices[0].message.content.
ask chat/completions -d '{"model": "'"$MODEL"'", "temperature": 0,
  "messages": [{"role": "user", "content": "中国的首都是哪里？"}]}'

# A conversation: the server remembers nothing, so all that was said is sent again.
ask chat/completions -d '{"model": "'"$MODEL"'", "messages": [
  {"role": "system", "content": "你是一个乐于助人的助手。"},
  {"role": "user", "content": "给我讲一些有关杭州的故事吧"},
  {"role": "assistant", "content": "好的，请问您对杭州有什么特别的偏好吗？"},
  {"role": "user", "content": "我比较喜欢和西湖，可以给我讲一下西湖吗"}]}'

# A stream: the answer piece by piece, as events ("data: ..."). -N lets curl show each at once.
ask chat/completions -N -d '{"model": "'"$MODEL"'", "stream": true,
  "messages": [{"role": "user", "content": "给我讲一些有关杭州的故事吧"}]}'

# How random? temperature 0 always takes the likeliest token; a lower top_p is steadier, a higher one more varied.
# n: several answers to choose from.
ask chat/completions -d '{"model": "'"$MODEL"'", "temperature": 0.9, "top_p": 0.8, "n": 2, "max_tokens": 60,
  "messages": [{"role": "user", "content": "告诉我中国和美国分别各有哪些优点缺点"}]}'

# Beam search: the two likeliest of four answers that are followed side by side.
ask chat/completions -d '{"model": "'"$MODEL"'", "num_beams": 4, "n": 2,
  "messages": [{"role": "user", "content": "告诉我中国的首都在哪里"}]}'

# JSON that keeps a schema, whatever the model would rather say.
ask chat/completions -d '{"model": "'"$MODEL"'",
  "messages": [{"role": "user", "content": "用JSON回答：中国的首都是哪里？"}],
  "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {
    "type": "object", "properties": {"首都": {"type": "string", "maxLength": 20}}, "required": ["首都"]}}}}'

# A completion: one prompt, without roles. "raw": true would leave the instruction template out.
ask completions -d '{"model": "'"$MODEL"'", "prompt": "告诉我中国的首都在哪里", "max_tokens": 60}'
