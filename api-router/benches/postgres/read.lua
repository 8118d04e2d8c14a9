-- One of the users that were loaded before.
math.randomseed(os.time())
request = function()
  return wrk.format("GET", "/api/read?table=users&limit=10", { ["x-shard-key"] = "u_" .. math.random(0, 29999) })
end
