# Adds to nginx's Makefile the rule that builds Weir's Rust library; see config.
# shellcheck shell=sh disable=SC2154

weir_root=$(cd "$ngx_addon_dir/.." && pwd)
weir_source=$(pwd)
mkdir -p "$NGX_OBJS/weir"
weir_objs=$(cd "$NGX_OBJS" && pwd)

# cargo alone knows what is out of date, so it is asked each time; the library's file changes only if it differs, and
# nginx is linked anew only then. It is copied out of cargo's directory, where other builds have one of the same name.
# It is called as by scripts/build, with the command `weir`: names of functions have the same hashes then, so that the
# profile of pgo/ knows them.
cat << END                                                    >> "$NGX_MAKEFILE"

weir_always:

$NGX_OBJS/weir/libngx_http_weir_module.a:	weir_always
	cd $weir_root && \\
	export CARGO_TARGET_DIR=\$\${CARGO_TARGET_DIR:-$weir_root/target} && \\
	host=\`\$\${RUSTC:-rustc} -vV | sed -n 's/^host: //p'\` && \\
	set -- --profile dist --locked --package weir-ngx --package weir-perf --target \$\$host && \\
	setting=\`ngx-glue/pgo/config\` && \\
	if [ "\$\$setting" ]; then set -- "\$\$@" --config "\$\$setting"; fi && \\
	NGINX_SOURCE_DIR=$weir_source NGINX_BUILD_DIR=$weir_objs WEIR_LINKED=yes \\
	\$\${CARGO:-cargo} build "\$\$@" && \\
	made=\$\$CARGO_TARGET_DIR/\$\$host/dist/libngx_http_weir_module.a && \\
	to=$weir_objs/weir/libngx_http_weir_module.a && \\
	{ cmp -s \$\$made \$\$to || cp \$\$made \$\$to; }

END

# The file that a dynamic module is; its rule, which nginx makes, does not know of the library.
case " $DYNAMIC_ADDONS " in
    *" $ngx_addon_dir "*)
        cat << END                                            >> "$NGX_MAKEFILE"
$NGX_OBJS/ngx_http_weir_module$ngx_modext:	$NGX_OBJS/weir/libngx_http_weir_module.a

END
    ;;
esac
