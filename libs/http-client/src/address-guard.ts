import { domainToASCII } from 'node:url';
import ipaddr from 'ipaddr.js';

/**
 * Why something may not be called from inside, as one word for logs and answers:
 * `scheme`, `credentials` (in the URL), `unreadable`, `name` (one that only means something inside), or the range that the
 * address lies in.
 */
export type Refusal = string;

/**
 * Single addresses that clouds answer on from inside though their range is public: Azure's WireServer. The others
 * (169.254.169.254, fd00:ec2::254, 100.100.100.200, 192.0.0.192) lie in ranges that are refused as a whole.
 */
const insideAddresses = new Set(['168.63.129.16']);

/** Names that resolvers inside answer, whatever the world says: RFC 6761, 6762, 8375, the clouds' and Kubernetes'. */
const insideNames = [
  'localhost',
  'localdomain',
  'local',
  'internal',
  'intranet',
  'lan',
  'home.arpa',
  'in-addr.arpa',
  'ip6.arpa',
  'svc',
  'onion',
];

const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3');
const nat64 = ipaddr.IPv6.parseCIDR('64:ff9b::/96');

/**
 * Why this address may not be called, or undefined when it is a public one. Any written form of it: dotted, decimal,
 * octal, hex or short IPv4, IPv6 with or without brackets, IPv4 inside IPv6. Total: what cannot be read is refused, so no
 * form is let through because another program reads it in another way.
 */
export function refusedAddress(written: string): Refusal | undefined {
  const text = written.startsWith('[') && written.endsWith(']') ? written.slice(1, -1) : written;
  // A zone says which interface: only addresses of a link have one.
  if (text.includes('%')) return 'zone';
  let address: ipaddr.IPv4 | ipaddr.IPv6;
  try {
    address = ipaddr.parse(text);
  } catch {
    return 'unreadable';
  }
  return address instanceof ipaddr.IPv4 ? refusedIpv4(address) : refusedIpv6(address);
}

function refusedIpv4(address: ipaddr.IPv4): Refusal | undefined {
  if (insideAddresses.has(address.toString())) return 'metadata';
  const range = address.range();
  return range === 'unicast' ? undefined : range;
}

function refusedIpv6(address: ipaddr.IPv6): Refusal | undefined {
  const range = address.range();
  // The IPv4 address that a mapped (RFC 4291) or translated one (RFC 6052, well-known prefix) leads to is what counts.
  if (range === 'ipv4Mapped') return refusedIpv4(address.toIPv4Address());
  if (address.match(nat64)) return refusedIpv4(lastFour(address));
  if (range !== 'unicast') return range;
  // What is not given out yet (and the deprecated ::a.b.c.d, which some stacks still follow) is nobody's public address.
  if (!address.match(globalUnicast)) return 'reserved';
  // ISATAP (RFC 5214) carries an IPv4 address of the site behind any prefix.
  const [, , , , high, low] = address.parts;
  return (high === 0 || high === 0x200) && low === 0x5efe ? 'isatap' : undefined;
}

function lastFour(address: ipaddr.IPv6): ipaddr.IPv4 {
  return new ipaddr.IPv4(address.toByteArray().slice(-4));
}

/** How a host is read, whoever wrote it: lower case, punycode, one trailing dot less. Empty when it is no host. */
export function canonicalHost(host: string): string {
  const bare = host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host;
  if (bare.includes(':')) return bare.toLowerCase();
  // An IPv4 address in any form comes back dotted.
  const ascii = domainToASCII(bare);
  return ascii.endsWith('.') ? ascii.slice(0, -1) : ascii;
}

/**
 * Why a host may not be called, as far as it can be said without asking a resolver; an address that a name resolves to is
 * asked for by `refusedAddress`. `allowed`: hosts that may be called whatever they are (`*` for all), as WEBHOOK_ALLOWED_HOSTS
 * lists them for development and tests.
 */
export function refusedHost(host: string, allowed: readonly string[] = []): Refusal | undefined {
  const name = canonicalHost(host);
  if (isAllowedHost(name, allowed)) return undefined;
  if (host.includes(':') || host.includes('%')) return refusedAddress(host);
  if (name === '') return 'unreadable';
  const labels = name.split('.');
  if (labels.some((label) => label === '' || label.length > 63) || name.length > 253) return 'unreadable';
  // A last label that is a number makes it an address for everybody (WHATWG URL), also when it cannot be read as one.
  if (/^(0x[0-9a-f]*|[0-9]+)$/i.test(labels.at(-1) ?? '')) return refusedAddress(name);
  if (labels.length === 1) return 'name';
  const inside = insideNames.some((suffix) => name === suffix || name.endsWith(`.${suffix}`));
  return inside || labels.includes('localhost') ? 'name' : undefined;
}

/** Whether a host, in its canonical form, is one of those that the settings let through. */
export function isAllowedHost(name: string, allowed: readonly string[]): boolean {
  return allowed.some((entry) => entry === '*' || canonicalHost(entry) === name);
}

/**
 * Why a URL may not be called, as far as it can be said without asking a resolver: http and https only, no user or password in it, a
 * host that `refusedHost` lets pass.
 */
export function refusedUrl(written: string, allowed: readonly string[] = []): Refusal | undefined {
  const url = URL.parse(written);
  if (url === null) return 'unreadable';
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return 'scheme';
  if (url.username !== '' || url.password !== '') return 'credentials';
  return refusedHost(url.hostname, allowed);
}
