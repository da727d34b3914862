-- wrk sends a connection's next request this many milliseconds after the response to the one before.
function delay()
    return 20
end
