import { describe, expect, it } from 'vitest';
import { refusedAddress, refusedHost, refusedUrl } from './address-guard.ts';

describe('an address', () => {
  it.each([
    '8.8.8.8',
    '1.1.1.1',
    '134744072', // 8.8.8.8
    '0x08080808',
    '010.010.010.010',
    '0x8.010.8.8',
    '8.8.2056',
    '223.255.255.255',
    '2606:4700:4700::1111',
    '[2606:4700:4700::1111]',
    '2A00:1450:4001:82A::200E',
    '::ffff:8.8.8.8',
    '::ffff:808:808',
    '64:ff9b::8.8.8.8', // a public one behind NAT64
    '64:ff9b::808:808',
  ])('that is public is called: %s', (written) => {
    expect(refusedAddress(written)).toBeUndefined();
  });

  it.each([
    // loopback and unspecified, in every form
    ['127.0.0.1', 'loopback'],
    ['127.255.255.254', 'loopback'],
    ['2130706433', 'loopback'],
    ['017700000001', 'loopback'],
    ['0x7f000001', 'loopback'],
    ['0x7F.1', 'loopback'],
    ['127.1', 'loopback'],
    ['127.0.1', 'loopback'],
    ['0177.0.0.1', 'loopback'],
    ['0177.0x0.0.01', 'loopback'],
    ['0', 'unspecified'],
    ['0.0.0.0', 'unspecified'],
    ['0.1.2.3', 'unspecified'],
    ['::', 'unspecified'],
    ['::1', 'loopback'],
    ['[::1]', 'loopback'],
    ['0:0:0:0:0:0:0:1', 'loopback'],
    ['0000:0000:0000:0000:0000:0000:0000:0001', 'loopback'],
    // private
    ['10.0.0.1', 'private'],
    ['10.255.255.255', 'private'],
    ['172.16.0.1', 'private'],
    ['172.31.255.255', 'private'],
    ['192.168.0.1', 'private'],
    ['3232235521', 'private'],
    ['0xc0a80001', 'private'],
    ['fc00::1', 'uniqueLocal'],
    ['fdff:ffff::1', 'uniqueLocal'],
    ['fec0::1', 'deprecatedSiteLocal'],
    // link-local, metadata, carrier-grade NAT
    ['169.254.169.254', 'linkLocal'],
    ['2852039166', 'linkLocal'],
    ['0xa9fea9fe', 'linkLocal'],
    ['0251.0376.0251.0376', 'linkLocal'],
    ['169.254.43518', 'linkLocal'],
    ['169.254.170.2', 'linkLocal'],
    ['fe80::1', 'linkLocal'],
    ['fe80::1%eth0', 'zone'],
    ['[fe80::1%25eth0]', 'zone'],
    ['::1%lo', 'zone'],
    ['fd00:ec2::254', 'uniqueLocal'],
    ['FD00:0EC2:0::254', 'uniqueLocal'],
    ['100.100.100.200', 'carrierGradeNat'],
    ['100.64.0.1', 'carrierGradeNat'],
    ['100.127.255.255', 'carrierGradeNat'],
    ['168.63.129.16', 'metadata'],
    ['192.0.0.192', 'reserved'],
    // broadcast, multicast, reserved, documentation
    ['255.255.255.255', 'broadcast'],
    ['4294967295', 'broadcast'],
    ['224.0.0.1', 'multicast'],
    ['239.255.255.255', 'multicast'],
    ['ff02::1', 'multicast'],
    ['240.0.0.1', 'reserved'],
    ['192.0.2.1', 'reserved'],
    ['198.18.0.1', 'reserved'],
    ['198.51.100.1', 'reserved'],
    ['203.0.113.1', 'reserved'],
    ['192.88.99.1', 'reserved'],
    ['2001:db8::1', 'reserved'],
    ['3fff::1', 'reserved'],
    ['100::1', 'discard'],
    ['4000::1', 'reserved'],
    // IPv4 inside IPv6
    ['::ffff:127.0.0.1', 'loopback'],
    ['::ffff:7f00:1', 'loopback'],
    ['0:0:0:0:0:ffff:10.0.0.1', 'private'],
    ['::ffff:169.254.169.254', 'linkLocal'],
    ['::FFFF:A9FE:A9FE', 'linkLocal'],
    ['::ffff:0:127.0.0.1', 'rfc6145'],
    ['64:ff9b::127.0.0.1', 'loopback'],
    ['64:ff9b::a9fe:a9fe', 'linkLocal'],
    ['64:ff9b::10.0.0.1', 'private'],
    ['64:ff9b:1::10.0.0.1', 'rfc6052'],
    ['2002:7f00:1::', '6to4'],
    ['2002:808:808::1', '6to4'],
    ['2001:0:53aa:64c::1', 'teredo'],
    ['2606:4700::5efe:10.0.0.1', 'isatap'],
    ['2606:4700::200:5efe:a00:1', 'isatap'],
    // what cannot be read
    ['', 'unreadable'],
    ['example.com', 'unreadable'],
    ['256.1.1.1', 'unreadable'],
    ['08.0.0.1', 'unreadable'],
    ['1.2.3.4.5', 'unreadable'],
    ['1.2.3.4 ', 'unreadable'],
    ['4294967296', 'unreadable'],
    ['::1::', 'unreadable'],
    ['127.0.0.1\u0000', 'unreadable'],
    ['12345::1', 'unreadable'],
  ])('that is not public is refused: %s (%s)', (written, why) => {
    expect(refusedAddress(written)).toBe(why);
  });

  it('of any text has an answer', () => {
    const pieces = ['0x', '127', '.', ':', '%', '[', ']', 'f', '\u0000', '９', ' ', '-1', 'é', '1e3'];
    for (const first of pieces) {
      for (const second of pieces) {
        for (const third of pieces) {
          const text = first + second + third;
          expect(() => [
            refusedAddress(text),
            refusedHost(text),
            refusedUrl(`http://${text}/`),
          ]).not.toThrow();
        }
      }
    }
  });
});

describe('a host', () => {
  it.each([
    'example.com',
    'EXAMPLE.com',
    'example.com.',
    'xn--bcher-kva.example',
    'bücher.example',
    '8.8.8.8',
  ])('of the world is called: %s', (host) => {
    expect(refusedHost(host)).toBeUndefined();
  });

  it.each([
    ['localhost', 'name'],
    ['LOCALHOST', 'name'],
    ['localhost.', 'name'],
    ['api.localhost', 'name'],
    ['localhost.localdomain', 'name'],
    ['ｌｏｃａｌｈｏｓｔ', 'name'],
    ['ⓛⓞⓒⓐⓛⓗⓞⓢⓣ', 'name'],
    ['localhost.example.com', 'name'],
    ['ip6-localhost', 'name'],
    ['metadata', 'name'],
    ['metadata.google.internal', 'name'],
    ['metadata.google.internal.', 'name'],
    ['instance-data.ec2.internal', 'name'],
    ['printer.local', 'name'],
    ['router.home.arpa', 'name'],
    ['kubernetes.default.svc', 'name'],
    ['db.prod.svc.cluster.local', 'name'],
    ['postgres', 'name'],
    ['1.0.0.127.in-addr.arpa', 'name'],
    ['127.0.0.1.', 'loopback'],
    ['127.1.', 'loopback'],
    ['１２７.０.０.１', 'loopback'],
    ['127。0。0。1', 'loopback'],
    ['169.254.169.254.', 'linkLocal'],
    ['[::ffff:127.0.0.1]', 'loopback'],
    ['foo.0x7f', 'unreadable'],
    ['1.2.3.4.5', 'unreadable'],
    ['a..b', 'unreadable'],
    ['example.com..', 'unreadable'],
    ['', 'unreadable'],
    ['.', 'unreadable'],
    ['a b.com', 'unreadable'],
    [`${'a'.repeat(64)}.com`, 'unreadable'],
  ])('that only means something inside is refused: %s (%s)', (host, why) => {
    expect(refusedHost(host)).toBe(why);
  });

  it('of the list for development is called, in any form, and no other', () => {
    const allowed = ['localhost', '127.0.0.1', '[::1]'];
    for (const host of ['localhost', 'LOCALHOST.', '127.0.0.1', '127.1', '0x7f000001', '[::1]', '::1']) {
      expect(refusedHost(host, allowed), host).toBeUndefined();
    }
    expect(refusedHost('127.0.0.2', allowed)).toBe('loopback');
    expect(refusedHost('a.localhost', allowed)).toBe('name');
    expect(refusedHost('10.0.0.1', ['*'])).toBeUndefined();
  });
});

describe('a URL', () => {
  it.each([
    ['https://example.com/hook?a=b', undefined],
    ['http://example.com:8080/', undefined],
    ['http://2130706433/', 'loopback'],
    ['http://0x7f.1:8080/x', 'loopback'],
    ['http://017700000001/', 'loopback'],
    ['http://[::ffff:7f00:1]/', 'loopback'],
    ['http://[fd00:ec2::254]/latest', 'uniqueLocal'],
    ['http://100.100.100.200/latest', 'carrierGradeNat'],
    ['http:\\\\127.0.0.1\\', 'loopback'],
    ['http:127.0.0.1', 'loopback'],
    ['http://127.0.0.1.:80/', 'loopback'],
    ['http://%31%32%37.0.0.1/', 'loopback'],
    ['http://①②⑦.0.0.1/', 'loopback'],
    ['http://example.com@127.0.0.1/', 'credentials'],
    ['http://127.0.0.1#@example.com/', 'loopback'],
    ['https://user:password@example.com/', 'credentials'],
    ['http://[fe80::1%25eth0]/', 'unreadable'],
    ['ftp://example.com/', 'scheme'],
    ['file:///etc/passwd', 'scheme'],
    ['gopher://127.0.0.1:6379/_', 'scheme'],
    ['//example.com', 'unreadable'],
    ['example.com', 'unreadable'],
    ['http://256.256.256.256/', 'unreadable'],
    ['', 'unreadable'],
  ])('%s: %s', (url, why) => {
    expect(refusedUrl(url)).toBe(why);
  });
});
