# Adds to nginx's Makefile the rule that builds Weir's Rust library; see config.
# shellcheck shell=sh disable=SC2154

weir_root=$(cd "$ngx_addon_dir/.." && pwd)
weir_source=$(pwd)
mkdir -p "$NGX_OBJS/weir"
weir_objs=$(cd "$NGX_OBJS" && pwd)

# cargo alone knows what is out of date, so it is asked each time; the library's file changes only if it differs, and
# nginx is linked anew only then. It is copied out of cargo's directory, where other builds have one of the same name.
cat << END                                                    >> "$NGX_MAKEFILE"

weir_always:

$NGX_OBJS/weir/libngx_http_weir_module.a:	weir_always
	cd $weir_root && \\
	NGINX_SOURCE_DIR=$weir_source NGINX_BUILD_DIR=$weir_objs \\
	CARGO_TARGET_DIR=\$\${CARGO_TARGET_DIR:-$weir_root/target} \\
	\$\${CARGO:-cargo} rustc --profile dist --locked --package weir-ngx --lib --crate-type staticlib --no-default-features
	cmp -s \$\${CARGO_TARGET_DIR:-$weir_root/target}/dist/libngx_http_weir_module.a \$@ || \\
	cp \$\${CARGO_TARGET_DIR:-$weir_root/target}/dist/libngx_http_weir_module.a \$@

END

# The file that a dynamic module is; its rule, which nginx makes, does not know of the library.
case " $DYNAMIC_ADDONS " in
    *" $ngx_addon_dir "*)
        cat << END                                            >> "$NGX_MAKEFILE"
$NGX_OBJS/ngx_http_weir_module$ngx_modext:	$NGX_OBJS/weir/libngx_http_weir_module.a

END
    ;;
esac
