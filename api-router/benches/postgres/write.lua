-- A new user with each request, at the level that LEVEL names.
math.randomseed(os.time())
local headers = { ["content-type"] = "application/json", ["x-consistency"] = os.getenv("LEVEL") }
request = function()
  local key = "u_" .. math.random(1, 1000000000)
  headers["x-shard-key"] = key
  return wrk.format("POST", "/api/write", headers, '{"table":"users","data":{"user_id":"' .. key ..
    '","name":"John Doe","email":"' .. key .. '@example.com","partition_key":"A"}}')
end
