# A server for `weir load --against`: nginx ($1) that answers every path.
cat >other.conf <<END
daemon off;
master_process off;
error_log stderr error;
pid other.pid;
events {}
http { access_log off; server { listen 127.0.0.1:$WEIR_LOAD_PORT; return 200 other; } }
END
exec "$1" -p "$PWD" -c other.conf -e stderr
