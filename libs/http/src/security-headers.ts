/** What a reply of this service may load and who may frame it: an API serves no active content. */
const apiPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/**
 * The page at /docs loads its own scripts and styles, shows inline styles and data: images, and calls this server.
 * No 'unsafe-inline' for scripts: the page's start script is a file.
 */
export const docsPolicy =
  "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; " +
  "font-src 'self' data:; img-src 'self' data:; script-src 'self'; style-src 'self' 'unsafe-inline'";

/**
 * On every reply, also refused, unreadable and streamed ones. One frozen object instead of a middleware: replies to
 * requests that never became one (parser errors) and raw streams need the same headers, and it costs one copy a request.
 */
export const securityHeaders = Object.freeze({
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  // The filter that browsers once had could itself be abused; 0 switches it off where it still exists.
  'x-xss-protection': '0',
  'content-security-policy': apiPolicy,
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-site',
  'permissions-policy': 'camera=(), geolocation=(), microphone=()',
});

/** Only where the caller came over TLS: ours, or a proxy's that says so. Browsers ignore it elsewhere. */
export const strictTransport = ['strict-transport-security', 'max-age=31536000; includeSubDomains'] as const;
