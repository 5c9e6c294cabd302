# Debian's /etc/profile sets PATH anew, and leaves out what is the image's own.
case ":$PATH:" in
  *:/opt/envkit/bin:*) ;;
  *) PATH="/opt/envkit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" ;;
esac
export PATH
