-- One of the users that were loaded before, by a client that has seen what TOKEN tells.
math.randomseed(os.time())
local headers = { ["x-session-token"] = os.getenv("TOKEN") }
request = function()
  headers["x-shard-key"] = "u_" .. math.random(0, 29999)
  return wrk.format("GET", "/api/read?table=users&limit=10", headers)
end
